import { spawn } from "node:child_process";
import { isIP, type Socket } from "node:net";
import { WarrenError } from "../../contracts/errors.ts";
import type { Denial, DenialWatch } from "../../contracts/runtime.ts";
import { createDeferred } from "../../lib/deferred.ts";
import { lastWords } from "../../lib/last-words.ts";
import { nativeProgram } from "../../lib/native.ts";
import type { ProcessId } from "./guest-process.ts";

/** What the guest's program answers when the kernel can't tell, or the rules are an earlier Warren's. */
const TELLS_NOTHING = 3;
/** The longest line is about half as long. */
const MAX_LINE = 128;
const MAX_COMPLAINT = 4096;
/** For it to start, and to answer: much longer than it takes on a machine that has much to do. */
const PATIENCE_MS = 5_000;

/**
 * Tells what the guard of a sandbox with open network denies. Our own program enters the sandbox's network namespace, and nothing
 * else of it, and hears there what the kernel says to nobody inside. It ends with the sandbox, and with us.
 * @throws WarrenError `unsupported`, `runtime_failed`
 */
export async function watchGuard(
  id: string,
  guest: ProcessId,
  onDenied: (denial: Denial) => void,
): Promise<DenialWatch> {
  const child = spawn(
    nativeProgram("warren-guest"),
    ["--watch-guard", String(guest.pid), String(guest.startTime)],
    // An interrupt at the terminal is for us; it is ended when we are done.
    { stdio: ["pipe", "pipe", "pipe"], env: {}, cwd: "/", detached: true },
  );
  // Nobody waits for what a sandbox may do: whoever waits for an answer has a timer.
  for (const handle of [child, child.stdin, child.stdout, child.stderr] as unknown as Socket[])
    handle.unref();
  const ready = createDeferred<void>();
  const ended = createDeferred<WarrenError | undefined>();
  const questions: (() => void)[] = [];
  let isOver = false;

  const finish = (failure?: WarrenError) => {
    if (isOver) return;
    isOver = true;
    child.kill("SIGKILL");
    ready.reject(failure ?? new WarrenError("sandbox_wrong_state", `sandbox ${id} has ended`));
    ended.resolve(failure);
    for (const answer of questions.splice(0)) answer();
  };
  const fail = (why: string, cause?: unknown) =>
    finish(
      new WarrenError("runtime_failed", `what open network denies sandbox ${id} is not told: ${why}`, {
        cause,
      }),
    );

  let complaint: Buffer = Buffer.alloc(0);
  child.stderr.on("data", (data: Buffer) => {
    complaint = Buffer.concat([complaint, data]).subarray(0, MAX_COMPLAINT);
  });
  child.stdin.on("error", () => {}); // "close" follows
  child.once("error", (cause) => fail("the guest's program could not be started", cause));
  child.once("close", (code) => {
    if (code === 0) return finish();
    if (code === TELLS_NOTHING) return finish(tellsNothing(id));
    fail(complaint.length > 0 ? lastWords(complaint) : "who watches was ended");
  });
  const onLine = (line: string) => {
    if (line === "ready") return ready.resolve();
    if (line === ".") return questions.shift()?.();
    const denial = parseDenial(line);
    if (!denial) return fail("who watches said something else");
    onDenied(denial);
  };
  let rest = "";
  child.stdout.setEncoding("latin1");
  child.stdout.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (!isOver) onLine(line);
    if (rest.length > MAX_LINE) fail("who watches said something else");
  });

  /** What takes too long is given up, so that nothing waits for it again. */
  const inTime = async (what: Promise<void>): Promise<void> => {
    const timer = setTimeout(() => fail("who watches does not answer"), PATIENCE_MS);
    await what.finally(() => clearTimeout(timer));
  };
  await inTime(ready.promise);

  return {
    ended: ended.promise,
    async settle() {
      if (isOver) return;
      await inTime(
        new Promise<void>((answered) => {
          questions.push(answered);
          child.stdin.write("?");
        }),
      );
    },
    [Symbol.dispose]: () => finish(),
  };
}

/** @returns undefined for what is no such line */
export function parseDenial(line: string): Denial | undefined {
  const [, chain, protocol, address = "", port] =
    /^(denied|full) (tcp|udp|icmp) ([0-9a-f:.]{2,45}) (\d{1,5})$/.exec(line) ?? [];
  if (isIP(address) === 0 || Number(port) > 65_535) return undefined;
  return {
    cause: chain === "full" ? "connections" : "rules",
    protocol: protocol as Denial["protocol"],
    address,
    port: Number(port),
  };
}

function tellsNothing(id: string): WarrenError {
  return new WarrenError(
    "unsupported",
    `what open network denies sandbox ${id} is not told: this machine's kernel can't tell what it denies`,
    { hint: "use a kernel with nft_limit: modprobe nft_limit; then start the sandbox again" },
  );
}
