"""The machine under the measurement: its files, programs and sensors. Knows nothing of models or torch."""
