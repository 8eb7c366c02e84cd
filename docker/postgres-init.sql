-- Airflow's database is made by the image; ML Metadata has one of its own.
CREATE DATABASE metadata;
