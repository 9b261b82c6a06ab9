"""The report page of a training run: reading the workdir, drawing the charts, and writing the sections."""
