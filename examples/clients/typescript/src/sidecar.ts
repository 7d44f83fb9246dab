// The connection to the sidecar: its calls as promises, and how a failed call is told.
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { credentials, Metadata, type CallOptions, type ClientUnaryCall, type ServiceError } from "@grpc/grpc-js";

import { QuotaServiceClient } from "./gen/bursar/v1/quota.js";

// Every call may be repeated, because its id is the caller's: so let gRPC repeat it while the sidecar restarts.
const SERVICE_CONFIG = JSON.stringify({
  methodConfig: [
    {
      name: [{ service: "bursar.v1.QuotaService" }],
      waitForReady: true,
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: "0.02s",
        maxBackoff: "0.2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
});

/** A client that connects at its first call, over TCP or (`unix:`) a socket. */
export const quota = new QuotaServiceClient(process.env.BURSAR_TARGET ?? "127.0.0.1:7420", credentials.createInsecure(), {
  "grpc.service_config": SERVICE_CONFIG,
  "grpc.enable_http_proxy": 0,
});

type Call<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** Makes a call that must be answered within this. */
function promised<Request, Response>(call: Call<Request, Response>) {
  return (request: Request, withinMs: number): Promise<Response> =>
    new Promise((resolve, reject) => {
      const deadline = Date.now() + withinMs;
      call.call(quota, request, new Metadata(), { deadline }, (error, response) => {
        if (error === null) resolve(response);
        else reject(error);
      });
    });
}

export const reserve = promised(quota.reserve);
export const commit = promised(quota.commit);
export const release = promised(quota.release);

/** The name that bursar gave the reason; undefined: the call did not come as far as an answer. */
export function reason(error: unknown): string | undefined {
  // grpc-js leaves the details as they came: a google.rpc.Status, whose third field is a list of Any.
  const [status] = (error as Partial<ServiceError>).metadata?.get("grpc-status-details-bin") ?? [];
  if (!(status instanceof Uint8Array)) return undefined;
  for (const any of fields(status)[3] ?? []) {
    const { 1: type, 2: value } = fields(any);
    if (text(type) !== "type.googleapis.com/google.rpc.ErrorInfo") continue;
    const { 1: name, 2: domain } = fields(value?.[0] ?? new Uint8Array());
    if (text(domain) === "bursar") return text(name);
  }
  return undefined;
}

/** The reason, and for a person what was wrong. */
export function told(error: unknown): string {
  return `${reason(error) ?? "NO_ANSWER"}: ${(error as Partial<ServiceError>).details ?? String(error)}`;
}

/** What of a message has a length: its texts, bytes and messages, by number. */
function fields(message: Uint8Array): Record<number, Uint8Array[]> {
  const found: Record<number, Uint8Array[]> = {};
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (type === WireType.LengthDelimited) (found[number] ??= []).push(reader.bytes());
    else reader.skip(type);
  }
  return found;
}

function text(field?: Uint8Array[]): string {
  return new TextDecoder().decode(field?.[0]);
}
