import { type Command, Option } from "commander";
import { readApiKeyFile, readEnvironment, resolveStateDir } from "../app/config.ts";
import type { NodeClientOptions } from "../client/node/index.ts";
import type { ServerApi } from "../contracts/api.ts";
import { UsageError } from "./report.ts";

/** What the CLI knows before a command runs. */
export interface CliContext {
  /** This CLI's own main file; Node runs it again as the engine. */
  mainFile: string;
  /** The whole command line, without Node and the main file. */
  args: readonly string[];
}

/** Options that every command takes, before its name or after it. */
export interface GlobalOptions {
  server?: string;
  apiKeyFile?: string;
  caFile?: string;
  stateDir?: string;
}

/** Global options whose next argument is their value. */
export const globalFlags = ["--server", "--api-key-file", "--ca-file", "--state-dir"] as const;

const GROUP = "Global options:";

export function addGlobalOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--server <url>",
        "server to talk to: http(s)://… or unix:/path (default: WARREN_URL, else this machine's engine)",
      ).helpGroup(GROUP),
    )
    .addOption(
      new Option("--api-key-file <file>", "file with the API key (default: WARREN_API_KEY)").helpGroup(GROUP),
    )
    .addOption(
      new Option(
        "--ca-file <file>",
        "certificates to trust for https://, PEM (default: WARREN_CA_FILE, else Node's own and NODE_EXTRA_CA_CERTS)",
      ).helpGroup(GROUP),
    )
    .addOption(
      new Option(
        "--state-dir <dir>",
        "state directory of this machine's engine (default: WARREN_STATE_DIR, else /var/lib/warren for root, ~/.local/state/warren for others)",
      ).helpGroup(GROUP),
    );
}

export interface Target {
  /** Server URL that was chosen; undefined: this machine's engine. */
  url?: string;
  apiKey?: string;
  caFile?: string;
  stateDir: string;
}

/** Which engine is meant: flags, then environment, then this machine's own. A state directory's flag beats WARREN_URL. */
export function resolveTarget(options: GlobalOptions): Target {
  const environment = readEnvironment();
  if (options.server !== undefined && options.stateDir !== undefined) {
    throw new UsageError("--server and --state-dir exclude each other");
  }
  const url = options.server ?? (options.stateDir === undefined ? environment.url : undefined);
  const apiKey =
    options.apiKeyFile === undefined ? environment.apiKey : readApiKeyFile(options.apiKeyFile)[0];
  if (url !== undefined && !/^(https?:\/\/|unix:\/)./.test(url)) {
    throw new UsageError(
      `${url} is not a server URL`,
      "write it as http://host:port, https://host:port or unix:/path/to/engine.sock",
    );
  }
  if (options.caFile !== undefined && !url?.startsWith("https:")) {
    throw new UsageError("--ca-file is for servers with https://", "name one with --server or WARREN_URL");
  }
  const caFile = options.caFile ?? environment.caFile;
  return {
    stateDir: resolveStateDir(options.stateDir, environment),
    ...(caFile === undefined ? {} : { caFile }),
    ...(url === undefined ? {} : { url }),
    ...(apiKey === undefined ? {} : { apiKey }),
  };
}

/** True unless the server is spoken to over TCP, and may be on another machine. */
export function isLocal(command: Command): boolean {
  const { url } = resolveTarget(command.optsWithGlobals<GlobalOptions>());
  return url === undefined || url.startsWith("unix:");
}

export interface ConnectOptions extends Pick<NodeClientOptions, "onConnection"> {
  /** The first call itself finds out whether this machine's engine runs; it must be one that `askAgain` makes once more. */
  unasked?: boolean;
}

/** The API that a command works with. Starts this machine's engine when none runs and no server was named. */
export async function connectApi(
  command: Command,
  context: CliContext,
  { onConnection, unasked = false }: ConnectOptions = {},
): Promise<ServerApi> {
  const target = resolveTarget(command.optsWithGlobals<GlobalOptions>());
  const { url, apiKey, caFile, stateDir } = target;
  const clientOf = async (at: string) => {
    const { createNodeClient } = await import("../client/node/index.ts");
    return createNodeClient({
      url: at,
      client: "cli",
      ...(apiKey === undefined ? {} : { apiKey }),
      ...(caFile === undefined ? {} : { caFile }),
      ...(onConnection === undefined ? {} : { onConnection }),
    });
  };
  if (url !== undefined) return await clientOf(url);
  const { ensureEngine, likelyEngine, nextEngine } = await import("../app/daemon.ts");
  const { askAgain } = await import("./ask-again.ts");
  const engine = { stateDir, mainFile: context.mainFile };
  return askAgain(
    await clientOf(`unix:${(unasked && likelyEngine(stateDir)) || (await ensureEngine(engine))}`),
    async (isLeaving) => await clientOf(`unix:${await (isLeaving ? nextEngine : ensureEngine)(engine)}`),
  );
}
