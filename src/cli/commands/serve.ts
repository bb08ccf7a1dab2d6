import { type Command, Option } from "commander";
import type { RunningWarren } from "../../app/compose.ts";
import { forgetSecrets, readEnvironment } from "../../app/config.ts";
import { EXIT_ENGINE_LOCKED } from "../../app/daemon.ts";
import type { ServeConfig, ServeFlags } from "../../app/serve-config.ts";
import { signals } from "../../contracts/constants.ts";
import { WarrenError } from "../../contracts/errors.ts";
import { collect } from "../options.ts";
import { print, say } from "../output.ts";
import { safe } from "../render.ts";

export function define(command: Command): void {
  command
    .option(
      "--host <address>",
      "address to listen on; others than loopback need API keys (default: 127.0.0.1)",
    )
    .option("--port <port>", "TCP port; 0 picks a free one (default: 8080)")
    .option(
      "--state-dir <dir>",
      "state directory (default: WARREN_STATE_DIR, else /var/lib/warren for root, ~/.local/state/warren for others)",
    )
    .option(
      "--api-key-file <file>",
      "file with the accepted API keys, one a line (default: WARREN_API_KEYS); turns authentication on",
    )
    .option(
      "--tls-cert <file>",
      "serve HTTPS with this certificate and its chain, PEM (default: WARREN_TLS_CERT)",
    )
    .option("--tls-key <file>", "its private key, PEM, which others may not read (default: WARREN_TLS_KEY)")
    .option("--http2", "with TLS, speak HTTP/2 as well (default: WARREN_HTTP2, else off)")
    .option("--allowed-origin <origin>", "origin of web pages that may call the API (repeatable)", collect)
    .option(
      "--allow-binds",
      "let clients over TCP mount directories of this machine: they can then change what the engine's user can",
    )
    .option(
      "--allow-host-network",
      "let clients over TCP have sandboxes with this machine's network: they can then reach what listens on its loopback",
    )
    .option(
      "--publish-address <address>",
      "let clients over TCP publish ports of sandboxes on this address too, such as 0.0.0.0 (repeatable)",
      collect,
    )
    .option(
      "--preview-domain <domain>",
      "domain all of whose names lead here, for previews in browsers; with https:// where something in front of us speaks TLS (default: WARREN_PREVIEW_DOMAIN, else localhost)",
    )
    .option("--max-sandboxes <number>", "most sandboxes at a time (default: WARREN_MAX_SANDBOXES)")
    .option(
      "--default-timeout <duration>",
      "expiry of sandboxes whose request names none, or `never` (default: WARREN_DEFAULT_TIMEOUT)",
    )
    .option(
      "--runtime <name>",
      "runtime driver of sandboxes that name none: oci, podman, docker, or fake, which isolates nothing (default: WARREN_RUNTIME, else oci)",
    )
    .option(
      "--runtimes <names>",
      "runtime drivers that sandboxes may have, such as oci,podman (default: WARREN_RUNTIMES, else all but fake)",
    )
    .option("--oci-program <name>", "crun or runc (default: WARREN_OCI_PROGRAM, else the first that works)")
    .option(
      "--uplink <name>",
      "what carries the packets of open network: slirp4netns or pasta (default: WARREN_UPLINK, else the first that works)",
    )
    .option(
      "--trust-file <file>",
      "certificates, PEM, of authorities whose servers are given secrets, beside those that this machine trusts (default: WARREN_TRUST_FILE)",
    )
    .option(
      "--strict",
      "refuse crun and runc versions with published escapes (default: WARREN_STRICT, else warn)",
    )
    .option(
      "--unlimited",
      "sandboxes have no limits but those that their request names (default: WARREN_UNLIMITED)",
    )
    .option(
      "--log-level <level>",
      "debug, info, warn, error or silent (default: WARREN_LOG_LEVEL, else info)",
    )
    .option("--json", "print one line of JSON when ready, with `url`")
    .addOption(new Option("--on-demand").hideHelp())
    .addHelpText(
      "after",
      "\nThe log goes to stderr. SIGTERM and SIGINT end the server and leave sandboxes running; a second one ends it\n" +
        "at once. With TLS, SIGHUP reads certificate and key again; without, it is like SIGTERM. When another process already runs the engine of the state directory, that engine is served.",
    );
  command.action(async () => {
    const options = command.optsWithGlobals<ServeFlags & { json?: boolean }>();
    const { parseServeConfig } = await import("../../app/serve-config.ts");
    const config = parseServeConfig(options, readEnvironment());
    forgetSecrets();
    // Unpacked images must get the modes that they name, whatever the caller's umask is.
    process.umask(0o022);
    let reload = () => {};
    const end = untilSignal(config.tls === undefined ? undefined : () => reload());
    const running = await startOrGiveWay(config, options.onDemand ?? false);
    if (!running) {
      process.exitCode = EXIT_ENGINE_LOCKED;
      return;
    }
    reload = () => running.reloadTls?.();
    await announce(running, config, options.json ?? false);
    await end;
    await running.close();
  });
}

/** Undefined when an on-demand engine finds another one in its place. */
async function startOrGiveWay(config: ServeConfig, onDemand: boolean): Promise<RunningWarren | undefined> {
  const { compose } = await import("../../app/compose.ts");
  const { createLogger } = await import("../../app/log.ts");
  try {
    return await compose(config, createLogger(config.logLevel)).start();
  } catch (error) {
    if (onDemand && error instanceof WarrenError && error.code === "engine_locked") {
      return undefined;
    }
    throw error;
  }
}

async function announce(running: RunningWarren, config: ServeConfig, asJson: boolean): Promise<void> {
  if (!running.ownsEngine) {
    await say(
      `Another process runs the engine of ${safe(config.stateDir)}; serving that one, with its settings.`,
    );
  }
  if (config.runtime === "fake") {
    await say("The fake runtime isolates nothing: commands run as processes of this machine.");
  }
  if (asJson) {
    const { url, socket, ownsEngine } = running;
    const line = {
      url,
      socket,
      state_dir: config.stateDir,
      pid: process.pid,
      auth: config.apiKeys.length > 0,
      owns_engine: ownsEngine,
    };
    await print(JSON.stringify(line));
  } else if (running.url !== undefined) {
    await say(`Warren serves on ${running.url}/api/v1`);
  }
}

/** Settles with the first signal that asks us to end. The next one ends the process at once. `hangUp` takes SIGHUP over. */
function untilSignal(hangUp: (() => void) | undefined): Promise<void> {
  return new Promise((resolve) => {
    let asked = false;
    if (hangUp) process.on("SIGHUP", hangUp);
    for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      if (name === "SIGHUP" && hangUp) continue;
      process.on(name, () => {
        if (asked) process.exit(128 + signals[name]);
        asked = true;
        resolve();
      });
    }
  });
}
