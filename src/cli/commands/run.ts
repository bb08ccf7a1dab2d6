import { randomUUID } from "node:crypto";
import { isatty } from "node:tty";
import type { Command } from "commander";
import type { SandboxApi } from "../../contracts/api.ts";
import { signals } from "../../contracts/constants.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { CreateSandbox, SandboxInfo } from "../../contracts/sandbox.ts";
import { connectionNotice } from "../connection-notice.ts";
import { addCreateOptions, type CreateOptions, createRequest } from "../create-options.ts";
import { renewCredentials } from "../credential-renewal.ts";
import { type GivenCredentials, parseCredentials } from "../credentials.ts";
import { exitCode, runAttached, terminalType } from "../exec-session.ts";
import { addGlobalOptions, type CliContext, connectApi, isLocal } from "../globals.ts";
import { sayBlocked, sayLearnt } from "../network-report.ts";
import { seconds } from "../options.ts";
import { print, say } from "../output.ts";
import { hostSide } from "../publish.ts";
import { safe } from "../render.ts";
import { explain, UsageError } from "../report.ts";

/** By it a run finds the sandbox that it asked for and heard nothing of. */
const RUN_LABEL = "warren.run";
/** Seconds that a sandbox outlives a CLI that can't remove it, for it was killed. */
const LEASE_S = 120;
const RENEWAL_MS = 30_000;

interface RunOptions extends CreateOptions {
  interactive?: boolean;
  tty?: boolean;
  detach?: boolean;
  rm?: boolean;
  keep?: boolean;
}

export function define(command: Command, context: CliContext): void {
  command
    .argument("<cmd...>", "program and arguments; options behind the program are its own")
    .passThroughOptions()
    .option("-t, --tty", "give it a terminal (default: when stdin and stdout are terminals)")
    .option("-T, --no-tty", "give it none")
    .option("-i, --interactive", "pass our stdin on, which is done anyway")
    .option(
      "-d, --detach",
      "make it the main command of a sandbox that stays, print the id, and don't wait for its end",
    )
    .option("--keep", "keep the sandbox, and print its id on stderr")
    .option("--rm", "remove the sandbox afterwards, which is done anyway; not with --detach");
  addCreateOptions(command).addHelpText(
    "after",
    "\nThe sandbox is removed when the command has ended, and after SIGINT, SIGTERM and the loss of the terminal too. When\n" +
      `this process can't do that, for it was killed or stopped, the sandbox is removed after ${LEASE_S / 60} minutes: it expires, and\n` +
      "this process puts that off as long as it runs. After --timeout the command is killed, and the exit code is 124.\n\n" +
      "The exit code is the command's: 128+n when signal n ended it, 126 or 127 when it can't be run. 125 is a failure of\n" +
      "Warren itself.",
  );
  addGlobalOptions(command).action(async (cmd: string[], options: RunOptions) => {
    const credentials = parseCredentials(options.credentials ?? []);
    const request = createRequest(options, isLocal(command), credentials);
    if (options.detach) return await runDetached(command, context, { ...request, cmd }, options);
    if (options.rm && options.keep) throw new UsageError("--rm and --keep exclude each other");
    process.exitCode = await run(command, context, request, cmd, { ...options, given: credentials });
  });
}

async function runDetached(
  command: Command,
  context: CliContext,
  request: CreateSandbox,
  { interactive, tty, rm }: RunOptions,
): Promise<void> {
  if (rm) {
    throw new UsageError(
      "--rm is for a command that is waited for: nobody removes the sandbox of a detached one when it ends",
      "give it a time with --timeout, or remove it with warren rm",
    );
  }
  if (interactive || tty) {
    throw new UsageError("a detached command has neither our stdin nor a terminal", "leave out -i and -t");
  }
  const api = await connectApi(command, context);
  await print(safe((await api.create(request)).id));
}

async function run(
  command: Command,
  context: CliContext,
  request: CreateSandbox,
  cmd: string[],
  options: RunOptions & { given: readonly GivenCredentials[] },
): Promise<number> {
  const { keep = false } = options;
  const tty = options.tty ?? (isatty(0) && isatty(1));
  const timeout = seconds(options.timeout);
  const onConnection = connectionNotice();
  using signalled = takeSignals();
  const api = await connectApi(command, context, onConnection ? { onConnection } : {});
  const sandbox = await create(api, keep ? request : { ...request, timeout: LEASE_S }, signalled);
  if (!sandbox) return signalled.code() ?? 0;
  const { id } = sandbox;
  try {
    using _lease = keep ? null : holdLease(api, id);
    // A terminal in raw mode needs a way down, and one back to the first column.
    const [before, after] = tty ? ["\r\n", "\r"] : ["", ""];
    using _renewal = renewCredentials(
      api,
      id,
      options.given,
      (why) => void say(`${before}warren: ${safe(why)}${after}`),
    );
    const code = signalled.code();
    if (code !== undefined) return code;
    await sayChosenPorts(sandbox, request);
    signalled.leaveToCommand();
    const exit = await runAttached(
      api,
      id,
      {
        cmd,
        binary: true,
        stdin: true,
        ...(tty ? { tty: true, env: terminalType(tty) } : {}),
        ...(timeout === undefined ? {} : { timeout }),
      },
      { interactive: true, tty },
    );
    return await exitCode(exit, options.timeout);
  } finally {
    signalled.isEnding();
    const mode = sandbox.network_mode;
    if (mode === "filtered" || mode === "open") await sayBlocked(api, id, { goes: !keep });
    if (mode === "filtered") await sayLearnt(api, id);
    if (keep) await say(`sandbox ${safe(id)} is kept`);
    else await remove(api, id);
  }
}

/** Where ports are reached for which no host port was named. */
async function sayChosenPorts({ ports }: SandboxInfo, request: CreateSandbox): Promise<void> {
  for (const { sandbox_port, protocol, ...host } of ports ?? []) {
    const isNamed = request.ports?.some((one) => one.host_port === host.host_port);
    if (!isNamed) await say(safe(`port ${sandbox_port}/${protocol} is reached at ${hostSide(host)}`));
  }
}

/** Undefined when a signal came first; what was half made is undone by the engine then. */
async function create(api: SandboxApi, request: CreateSandbox, signalled: Signalled) {
  const run = randomUUID();
  try {
    const labels = { ...request.labels, [RUN_LABEL]: run };
    return await api.create({ ...request, labels }, { signal: signalled.signal });
  } catch (error) {
    if (signalled.code() === undefined) throw error;
    await removeUnheard(api, run);
    return undefined;
  }
}

/** The engine may have been done, and its answer on the way, when we hung up. What fails here is left to the lease. */
async function removeUnheard(api: SandboxApi, run: string): Promise<void> {
  try {
    for (const { id } of await api.list({ labels: { [RUN_LABEL]: run } })) await api.remove(id);
  } catch {
    // Gone already, or an engine that is not there.
  }
}

/** Puts the sandbox's end off until disposed. What fails is tried again: the next time is long before the end. */
function holdLease(api: SandboxApi, id: string): Disposable {
  const timer = setInterval(() => {
    api.extend(id, LEASE_S).catch(() => {});
  }, RENEWAL_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** That it could not be removed is said, and does not change how the command ended. */
async function remove(api: SandboxApi, id: string): Promise<void> {
  try {
    await api.remove(id);
  } catch (error) {
    if (error instanceof WarrenError && error.code === "sandbox_not_found") return;
    const why = error instanceof Error ? error.message : String(error);
    await explain(
      new WarrenError("runtime_failed", `sandbox ${id} could not be removed: ${why}`, {
        hint: `it expires within ${LEASE_S / 60} minutes; at once: warren rm ${id}`,
        cause: error,
      }),
    );
  }
}

interface Signalled extends Disposable {
  /** Fires with a signal that comes before the command runs. */
  signal: AbortSignal;
  /** The exit code for that. */
  code(): number | undefined;
  /** From here on others take the signals; ours only have them not end this process. */
  leaveToCommand(): void;
  /** The command has ended. A terminal that goes away tells so more than once; only its keys can break off what is left. */
  isEnding(): void;
}

function takeSignals(): Signalled {
  const stop = new AbortController();
  let stage: "before" | "while" | "after" = "before";
  let code: number | undefined;
  const handlers = (["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const).map((name) => {
    const handler = () => {
      if (stage === "before") {
        code = 128 + signals[name];
        stop.abort();
      } else if (stage === "after" && (name === "SIGINT" || name === "SIGQUIT")) {
        process.exit(128 + signals[name]);
      }
    };
    process.on(name, handler);
    return { name, handler };
  });
  return {
    signal: stop.signal,
    code: () => code,
    leaveToCommand() {
      stage = "while";
    },
    isEnding() {
      stage = "after";
    },
    [Symbol.dispose]() {
      for (const { name, handler } of handlers) process.off(name, handler);
    },
  };
}
