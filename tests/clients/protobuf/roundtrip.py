"""Proves that the generated messages work on the protobuf runtime that PYTHONPATH puts first."""

import sys

import google.protobuf

from bursar.v1 import admin_pb2_grpc, quota_pb2, quota_pb2_grpc


def main() -> None:
    """Sends a request through its bytes and back; raises SystemExit if anything is lost."""
    wanted = sys.argv[1]
    if google.protobuf.__version__ != wanted:
        raise SystemExit(f"protobuf {google.protobuf.__version__} was loaded, not {wanted}")
    request = quota_pb2.ReserveRequest(
        reservation_id="r1",
        model="openai/gpt-4.1-mini",
        labels={"tenant": "acme"},
        input_tokens=0,
        output_tokens_min=0,
        durability=quota_pb2.DURABILITY_POWER,
    )
    read = quota_pb2.ReserveRequest.FromString(request.SerializeToString())
    if read != request or read.WhichOneof("input") != "input_tokens":
        raise SystemExit(f"protobuf {wanted} read another request than was written: {read}")
    stubs = (quota_pb2_grpc.QuotaServiceStub, admin_pb2_grpc.AdminServiceStub)
    sys.stdout.write(f"protobuf {wanted}: messages and {len(stubs)} services load and hold\n")


if __name__ == "__main__":
    main()
