"""The numerical core: arrays in, arrays out; nothing here knows labels, files or Dask."""
