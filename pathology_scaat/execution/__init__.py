"""Where work runs: here, in local processes, on Dask or a job queue; and on which device."""
