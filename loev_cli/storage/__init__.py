"""Files: written whole or not at all, read within bounds, never through a link that was planted.

atomic      files and folders that appear whole; replacing: what a command may write over
own         our own files and folders beside an output
remote      s3://, gs://, https:// and other URLs; http: no redirect into private networks
bounded     text, JSON and TOML of limited size and depth
npz         NumPy archives whose headers are checked before an array is allocated; parquet: the same
protobuf    the little of ONNX that has to be known before a graph is opened
"""
