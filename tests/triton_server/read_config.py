"""Print a `config.pbtxt` as JSON, read by protobuf and Triton's own definition of it.

Run by the server's Python: `read_config.py FILE`.
"""

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

config = text_format.Parse(Path(sys.argv[1]).read_text(), ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
