// Asks a model one question within a budget: reserve, stream the answer, commit what was used.
import { credentials, type ServiceError } from "@grpc/grpc-js";
import OpenAI from "openai";
import { v7 as uuidv7 } from "uuid";

import { promised, type Unary } from "./promised.js";
import {
  CommitRequest,
  Meter,
  Outcome,
  QuotaServiceClient,
  ReleaseRequest,
  ReserveRequest,
  type CommitResponse,
  type Grant,
  type Line,
  type ReleaseResponse,
  type ReserveResponse,
} from "./gen/bursar/v1/quota.js";

const MODEL = "openai/gpt-4.1-mini";
const EXIT = { done: 0, no: 1, wrong: 2, undecided: 3 } as const;

// A call to a model waits for the decision; nobody waits for a settlement.
const RESERVE_WITHIN_MS = 500;
const SETTLE_WITHIN_MS = 5_000;

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

type Usage = OpenAI.CompletionUsage;

/** What the stream gave: its id, its usage if it came to the end, and what cut it off if it did not. */
interface Answer {
  responseId: string;
  usage?: Usage;
  failure?: unknown;
}

const target = process.env.BURSAR_TARGET ?? "127.0.0.1:7420";
const quota = new QuotaServiceClient(target, credentials.createInsecure(), {
  "grpc.service_config": SERVICE_CONFIG,
  "grpc.enable_http_proxy": 0,
});
const reserve: Unary<ReserveRequest, ReserveResponse> = promised(quota, quota.reserve);
const commit: Unary<CommitRequest, CommitResponse> = promised(quota, quota.commit);
const release: Unary<ReleaseRequest, ReleaseResponse> = promised(quota, quota.release);

async function run(question: string): Promise<number> {
  const answer = await reserve(
    ReserveRequest.create({
      // The caller's own, so that the call may be repeated; one that begins with the time keeps the index small.
      reservationId: uuidv7(),
      model: MODEL,
      labels: { tenant: process.env.TENANT ?? "", feature: "chat" },
      input: { $case: "inputText", inputText: question },
      outputTokensMax: 200,
      outputTokensMin: 20,
    }),
    RESERVE_WITHIN_MS,
  );
  if (answer.outcome?.$case !== "grant") {
    const denial = answer.outcome?.denial;
    console.error(`denied: ${denial?.hint}`);
    if (denial?.retryAfterMs !== undefined) console.error(`try again in ${denial.retryAfterMs} ms`);
    return EXIT.no;
  }
  const grant = answer.outcome.grant;
  console.error(`granted: ${grant.inputTokens} tokens in, ${grant.outputTokensGranted} out`);
  return settle(grant, await stream(question, grant.outputTokensGranted));
}

/** Asks the model, bounded by the output that was granted, and shows the answer as it comes. */
async function stream(question: string, outputTokensMax: number): Promise<Answer> {
  const answer: Answer = { responseId: "" };
  try {
    // A try of its own would be a second call that nobody reserved.
    const chunks = await new OpenAI({ maxRetries: 0 }).chat.completions.create({
      model: MODEL.replace("openai/", ""),
      messages: [{ role: "user", content: question }],
      max_completion_tokens: outputTokensMax,
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of chunks) {
      answer.responseId = chunk.id;
      answer.usage = chunk.usage ?? answer.usage;
      process.stdout.write(chunk.choices[0]?.delta.content ?? "");
    }
    if (answer.usage === undefined) answer.failure = new Error("it ended without its usage");
  } catch (error) {
    answer.failure = error;
  }
  process.stdout.write("\n");
  return answer;
}

async function settle(grant: Grant, answer: Answer): Promise<number> {
  const reservationId = grant.reservationId;
  if (didNotRun(answer.failure)) {
    console.error(`error: the model refused the call: ${answer.failure.message}`);
    const request = ReleaseRequest.create({ reservationId, reason: answer.failure.message });
    const released = await release(request, SETTLE_WITHIN_MS);
    console.error(`released: ${released.tokensReleased} tokens`);
    return EXIT.no;
  }
  if (answer.failure !== undefined) console.error(`error: the answer was cut off: ${String(answer.failure)}`);
  const request = CommitRequest.create({
    reservationId,
    // Without lines the policy decides what a call that failed is charged.
    outcome: answer.failure === undefined ? Outcome.OUTCOME_COMPLETED : Outcome.OUTCOME_FAILED,
    lines: lines(answer.usage),
    responseId: answer.responseId,
  });
  const committed = await commit(request, SETTLE_WITHIN_MS);
  console.error(`committed: ${committed.tokensCommitted} tokens`);
  return answer.failure === undefined ? EXIT.done : EXIT.no;
}

/** Whether an error proves that the model did not run. */
function didNotRun(error: unknown): error is InstanceType<typeof OpenAI.APIError> {
  return error instanceof OpenAI.APIError && error.status >= 400 && error.status < 500;
}

/** Makes the provider's usage disjoint: what it reports inside another number is taken out of it. */
function lines(usage?: Usage): Line[] {
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  const reasoning = usage?.completion_tokens_details?.reasoning_tokens ?? 0;
  const tokens: [Meter, number][] = [
    [Meter.METER_INPUT, (usage?.prompt_tokens ?? 0) - cached],
    [Meter.METER_CACHE_READ, cached],
    [Meter.METER_OUTPUT, (usage?.completion_tokens ?? 0) - reasoning],
    [Meter.METER_REASONING, reasoning],
  ];
  return tokens
    .filter(([, count]) => count > 0)
    .map(([meter, count]) => ({ meter, tokens: count, component: "", source: "", basis: 0 }));
}

const [question, ...rest] = process.argv.slice(2);
if (question === undefined || rest.length > 0) {
  console.error("usage: chat QUESTION\nBURSAR_TARGET says where the sidecar is: unix:///run/bursar/bursar.sock or 127.0.0.1:7420");
  process.exitCode = EXIT.wrong;
} else {
  try {
    process.exitCode = await run(question);
  } catch (error) {
    console.error(`error: no answer from the sidecar at ${target}: ${(error as ServiceError).details ?? String(error)}`);
    process.exitCode = EXIT.undecided;
  }
}
quota.close();
