// A call of grpc-js as a promise, with the time it may take.
import { Metadata, type CallOptions, type Client, type ClientUnaryCall, type ServiceError } from "@grpc/grpc-js";

export type Unary<Request, Response> = (request: Request, withinMs: number) => Promise<Response>;

type Call<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

export function promised<Request, Response>(
  client: Client,
  call: Call<Request, Response>,
): Unary<Request, Response> {
  return (request, withinMs) =>
    new Promise((resolve, reject) => {
      const deadline = Date.now() + withinMs;
      call.call(client, request, new Metadata(), { deadline }, (error, response) => {
        if (error === null) resolve(response);
        else reject(error);
      });
    });
}
