-- Run once, by the image, as its superuser. Airflow and ML Metadata have a role each that owns a database and sees no other.
\set airflow_password `cat /run/secrets/airflow_role_password`
\set metadata_password `cat /run/secrets/metadata_role_password`
CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE ROLE metadata LOGIN PASSWORD :'metadata_password';
CREATE DATABASE airflow OWNER airflow;
CREATE DATABASE metadata OWNER metadata;
REVOKE ALL ON DATABASE airflow, metadata, postgres FROM PUBLIC;
-- ML Metadata asks there first whether its own database exists. Nothing lies there.
GRANT CONNECT ON DATABASE postgres TO metadata;
