-- Run once, when the server's volume is new; "mlflow" is made by the image itself.
CREATE DATABASE optuna;
