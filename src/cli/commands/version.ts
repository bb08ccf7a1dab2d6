import type { Command } from "commander";
import type { VersionInfo } from "../../contracts/api.ts";
import { buildInfo } from "../../lib/build-info.ts";
import { addGlobalOptions, type GlobalOptions, resolveTarget, type Target } from "../globals.ts";
import { print } from "../output.ts";
import { json, safe } from "../render.ts";

export function define(command: Command): void {
  command
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      "\nThe server's version is shown when --server or WARREN_URL names one, the engine's when it runs.",
    );
  addGlobalOptions(command).action(async (options: { json?: boolean }) => {
    const client = { ...buildInfo(), node: process.versions.node };
    const server = await serverVersion(resolveTarget(command.optsWithGlobals<GlobalOptions>()));
    if (options.json) {
      await print(json({ client, ...(server === undefined ? {} : { server }) }));
      return;
    }
    await print(`warren ${client.version} (commit ${client.commit}, node ${client.node})`);
    if (server !== undefined) {
      await print(`engine ${safe(server.version)} (commit ${safe(server.commit)})`);
    }
  });
}

/** Asking for a version starts no engine. */
async function serverVersion(target: Target): Promise<VersionInfo | undefined> {
  const url = target.url ?? (await runningEngine(target.stateDir));
  if (url === undefined) {
    return undefined;
  }
  const { createNodeClient } = await import("../../client/node/index.ts");
  return createNodeClient({
    url,
    ...(target.apiKey === undefined ? {} : { apiKey: target.apiKey }),
    ...(target.caFile === undefined ? {} : { caFile: target.caFile }),
  }).version();
}

async function runningEngine(stateDir: string): Promise<string | undefined> {
  const { engineAnswers } = await import("../../app/daemon.ts");
  const { checkStateDir, engineSocket } = await import("../../app/state-dir.ts");
  const socket = engineSocket(stateDir);
  return checkStateDir(stateDir) && (await engineAnswers(socket)) ? `unix:${socket}` : undefined;
}
