"""What the reports' pages have in common: colours, letters and tables."""

STYLE = """
:root { --old: #9aa5b1; --new: #2563eb; --warn: #b45309; --bad: #b91c1c;
  --line: #e5e7eb; --ink: #1f2937; --dim: #6b7280; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.said { font-size: 1.05rem; } .dim { color: var(--dim); }
.old { color: #64717f; font-weight: 600; } .new { color: var(--new); font-weight: 600; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; vertical-align: middle; }
th { border-bottom: 2px solid var(--line); font-weight: 600; } td { border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
"""
"""Grey (old) is what was, blue (new) what is looked at."""
