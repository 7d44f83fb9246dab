// Asks a model one question within a budget: reserve, stream the answer, commit what was used.
import OpenAI from "openai";
import { v7 as uuidv7 } from "uuid";

import {
  Chat,
  CommitRequest,
  Meter,
  Outcome,
  Reason,
  ReleaseRequest,
  ReserveRequest,
  Unit,
  type Denial,
  type Grant,
  type Line,
} from "./gen/bursar/v1/quota.js";
import { commit, quota, reason, release, reserve, told } from "./sidecar.js";

const MODEL = "openai/gpt-4.1-mini";
const EXIT = { done: 0, no: 1, wrong: 2, undecided: 3 } as const;

// A call to a model waits for the decision; nobody waits for a settlement.
const RESERVE_WITHIN_MS = Number(process.env.RESERVE_WITHIN_MS ?? 500);
const SETTLE_WITHIN_MS = 5_000;

const STATUSES_NOT_RUN = new Set([400, 401, 404, 429]);
const NO_CONNECTION = new Set(["ECONNREFUSED", "ENOTFOUND"]);

type Usage = OpenAI.CompletionUsage;

/** What the stream gave: its id, its usage if it came to the end, and what cut it off if it did not. */
interface Answer {
  responseId: string;
  usage?: Usage;
  failure?: unknown;
}

async function run(question: string): Promise<number> {
  const request = ReserveRequest.create({
    // The caller's own, so that the call may be repeated; one that begins with the time keeps the index small.
    reservationId: uuidv7(),
    model: MODEL,
    labels: { tenant: process.env.TENANT ?? "", feature: "chat" },
    input: { $case: "inputChat", inputChat: Chat.create({ messages: [{ role: "user", text: question }] }) },
    outputTokensMax: 200,
    outputTokensMin: 20,
  });
  let outcome;
  try {
    ({ outcome } = await reserve(request, RESERVE_WITHIN_MS));
  } catch (error) {
    console.error(`error: no decision: ${told(error)}`);
    return undecided(request.reservationId, error);
  }
  switch (outcome?.$case) {
    case "grant":
      return ask(question, outcome.grant);
    case "denial":
      tell(outcome.denial);
      return EXIT.no;
    default:
      console.error("error: no decision: the answer is of a later contract than this client");
      return EXIT.undecided;
  }
}

/** Says what refused and when to try again. */
function tell(denial: Denial): void {
  console.error(`denied: ${Reason[denial.reason]}: ${denial.hint}`);
  for (const { standing, requested } of denial.shortfalls) {
    const unit = Unit[standing?.unit ?? Unit.UNRECOGNIZED];
    console.error(`refused by ${standing?.limit}: ${requested} ${unit} needed, ${standing?.remaining} left`);
  }
  const settles = denial.shortfalls.every((refused) => refused.retryAfterMs !== undefined || refused.clearsOnSettle);
  if (denial.retryAfterMs !== undefined) console.error(`try again in ${denial.retryAfterMs} ms`);
  else if (denial.shortfalls.length > 0 && settles) console.error("try again when another call has been settled");
  else console.error("trying again does not help");
}

/** Tells a question that was wrong from one that nobody answered; gives the exit code. */
async function undecided(reservationId: string, error: unknown): Promise<number> {
  const name = reason(error);
  if (name === "INVALID_FIELD") return EXIT.wrong;
  if (name === undefined) {
    // It may have been granted all the same. The model was not called, so give it back, if anyone listens.
    const request = ReleaseRequest.create({ reservationId, reason: "no answer in time" });
    await release(request, RESERVE_WITHIN_MS).catch(() => undefined);
  }
  return EXIT.undecided;
}

async function ask(question: string, grant: Grant): Promise<number> {
  console.error(`granted: ${grant.inputTokens} tokens in, ${grant.outputTokensGranted} out`);
  const answer = await stream(grant.model, question, grant.outputTokensGranted);
  const notRun = whyNotRun(answer.failure);
  if (notRun !== undefined) {
    console.error(`error: the model did not run: ${notRun}`);
    return giveBack(grant.reservationId, notRun);
  }
  if (answer.failure !== undefined) console.error(`error: the answer was cut off: ${String(answer.failure)}`);
  return settle(grant.reservationId, answer);
}

/** Asks the model, bounded by the output that was granted, and shows the answer as it comes. */
async function stream(model: string, question: string, outputTokensMax: number): Promise<Answer> {
  const answer: Answer = { responseId: "" };
  try {
    // A try of its own would be a second call that nobody reserved.
    const chunks = await new OpenAI({ maxRetries: 0 }).chat.completions.create({
      model: model.replace("openai/", ""),
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
    if (answer.usage === undefined) answer.failure = "it ended in the middle";
  } catch (error) {
    answer.failure = error;
  }
  process.stdout.write("\n");
  return answer;
}

/** Settles with what was used. Usage is never refused, so it gets more time. */
async function settle(reservationId: string, answer: Answer): Promise<number> {
  const completed = answer.failure === undefined;
  const request = CommitRequest.create({
    reservationId,
    // Without lines the policy decides what a call that failed is charged.
    outcome: completed ? Outcome.OUTCOME_COMPLETED : Outcome.OUTCOME_FAILED,
    lines: lines(answer.usage),
    responseId: answer.responseId,
  });
  try {
    const { tokensCommitted } = await commit(request, SETTLE_WITHIN_MS);
    console.error(`committed: ${tokensCommitted} tokens`);
    return completed ? EXIT.done : EXIT.no;
  } catch (error) {
    console.error(`error: not committed, the reservation will expire: ${told(error)}`);
    return EXIT.undecided;
  }
}

/** Gives everything back. */
async function giveBack(reservationId: string, reason: string): Promise<number> {
  try {
    const { tokensReleased } = await release(ReleaseRequest.create({ reservationId, reason }), SETTLE_WITHIN_MS);
    console.error(`released: ${tokensReleased} tokens`);
    return EXIT.no;
  } catch (error) {
    console.error(`error: not released, the reservation will expire: ${told(error)}`);
    return EXIT.undecided;
  }
}

/** What proves that the model did not run, in words that the ledger can keep: at most 256 bytes. */
function whyNotRun(error: unknown): string | undefined {
  if (error instanceof OpenAI.APIConnectionError) return hasCode(error.cause, NO_CONNECTION) ? "no connection" : undefined;
  if (!(error instanceof OpenAI.APIError) || error.status === undefined) return undefined;
  return STATUSES_NOT_RUN.has(error.status) ? `status ${error.status}` : undefined;
}

/** Whether an error or its cause has one of these codes of Node's. */
function hasCode(error: unknown, codes: Set<string>): boolean {
  if (!(error instanceof Error)) return false;
  return ("code" in error && codes.has(String(error.code))) || hasCode(error.cause, codes);
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
} else if (Number.isNaN(RESERVE_WITHIN_MS)) {
  console.error(`error: RESERVE_WITHIN_MS is no number of milliseconds: ${process.env.RESERVE_WITHIN_MS}`);
  process.exitCode = EXIT.wrong;
} else {
  process.exitCode = await run(question);
}
quota.close();
