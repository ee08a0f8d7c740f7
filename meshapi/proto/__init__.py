"""Protobuf definitions and the modules generated from them (`tools/generate.sh`)."""
