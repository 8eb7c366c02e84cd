// The tab of one of our pages: a frame of our own. Airflow's frames let no link lead out of them, so that a page could
// not lead to a trigger form. The page itself brings the policy under which it runs no script.
globalThis.AirflowPlugin = ({ dagId, runId, taskId, mapIndex }) => {
  const name = encodeURIComponent;
  const run = runId === undefined ? "/model" : `/runs/${name(runId)}`;
  const task = taskId === undefined ? "" : `/tasks/${name(taskId)}/${mapIndex ?? -1}`;
  return globalThis.React.createElement("iframe", {
    sandbox: "allow-same-origin allow-top-navigation-by-user-activation",
    src: new URL(`airtight/${name(dagId)}${run}${task}`, document.baseURI).href,
    style: { border: "none", display: "block", height: "100%", width: "100%" },
    title: "Airtight",
  });
};
