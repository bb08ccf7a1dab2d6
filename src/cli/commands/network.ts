import { isatty } from "node:tty";
import type { Command } from "commander";
import { readEnvironment } from "../../app/config.ts";
import type { SandboxApi } from "../../contracts/api.ts";
import type { NetworkChange, NetworkDecision, NetworkState } from "../../contracts/network.ts";
import { collapse } from "../collapse.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { endpoint, howToAllow } from "../network-report.ts";
import { type NetworkOptions, networkRules } from "../network-rules.ts";
import { collect } from "../options.ts";
import { print, say } from "../output.ts";
import { json, type Paint, painter, safe, table } from "../render.ts";
import { UsageError } from "../report.ts";

const SANDBOX = ["<sandbox>", "id, start of an id, or name"] as const;
const RULES = ["<rule...>", "such as example.com:443, *.example.com, 10.0.0.0/8 or preset:dev"] as const;
const JSON_OPTION = ["--json", "print JSON"] as const;

interface Output {
  json?: boolean;
}

export function define(command: Command, context: CliContext): void {
  command.helpCommand(false);
  defineShow(command, context);
  defineSet(command, context);
  defineChange(command, context, "allow", "allow more, for open connections too");
  defineChange(command, context, "deny", "deny more, whatever is allowed; open connections end");
  defineChange(command, context, "remove", "take rules away, allowing and denying ones");
  defineExplain(command, context);
  defineLog(command, context);
  defineLearn(command, context);
}

function defineShow(parent: Command, context: CliContext): void {
  const command = parent
    .command("show")
    .description("show a sandbox's network mode, rules, and how many connections they have decided on")
    .argument(...SANDBOX)
    .option("--expand", "show what the presets stand for, and which file says so")
    .option(...JSON_OPTION);
  addGlobalOptions(command).action(async (id: string, options: Output & { expand?: boolean }) => {
    const api = await connectApi(command, context);
    await printState(await api.network.get(id), options);
  });
}

function defineSet(parent: Command, context: CliContext): void {
  const command = parent
    .command("set")
    .description("replace all rules; without any nothing is allowed, or with open network nothing internal")
    .argument(...SANDBOX)
    .option("--allow <rule>", "what it may reach (repeatable)", collect)
    .option("--deny <rule>", "what it may not reach, whatever is allowed (repeatable)", collect)
    .option("--preset <name>", "dev, registries, or project (repeatable)", collect)
    .option(...JSON_OPTION);
  type Options = Output & { allow?: string[]; deny?: string[]; preset?: string[] };
  addGlobalOptions(command).action(async (id: string, options: Options) => {
    const { allow, deny, preset } = options;
    const named: NetworkOptions = {
      ...(allow === undefined ? {} : { networkAllow: allow }),
      ...(deny === undefined ? {} : { networkDeny: deny }),
      ...(preset === undefined ? {} : { networkPreset: preset }),
    };
    const rules = networkRules(named) ?? {};
    const api = await connectApi(command, context);
    await api.network.set(id, rules);
    await printState(await api.network.get(id), options);
  });
}

function defineChange(
  parent: Command,
  context: CliContext,
  action: "allow" | "deny" | "remove",
  description: string,
): void {
  const command = parent
    .command(action)
    .description(description)
    .argument(...SANDBOX)
    .argument(...RULES)
    .option(...JSON_OPTION);
  addGlobalOptions(command).action(async (id: string, rules: string[], options: Output) => {
    const api = await connectApi(command, context);
    await api.network.change(id, { [action]: rules } as NetworkChange);
    await printState(await api.network.get(id), options);
  });
}

function defineExplain(parent: Command, context: CliContext): void {
  const command = parent
    .command("explain")
    .description(
      "say which rule decides on a connection, without making it; with open network, to an address",
    )
    .argument(...SANDBOX)
    .argument("<host:port>", "port 443 when none is named; an IPv6 address in brackets")
    .option(...JSON_OPTION);
  addGlobalOptions(command).action(async (id: string, text: string, options: Output) => {
    const { host, port } = parseEndpoint(text);
    const api = await connectApi(command, context);
    const decision = await api.network.explain(id, host, port);
    if (options.json) return await print(json(decision));
    await print(
      safe(`${decision.allowed ? "allowed" : "denied"}: ${endpoint(decision)}: ${decision.reason}`),
    );
    const command_ = howToAllow(decision, id);
    if (command_ !== undefined) await say(safe(`hint: ${command_}`));
    else if (decision.allowed && decision.cause === "learn") {
      await say(safe(`hint: without learn mode it takes: warren network allow ${id} ${endpoint(decision)}`));
    }
  });
}

function defineLog(parent: Command, context: CliContext): void {
  const command = parent
    .command("log")
    .description(
      "show which connections a sandbox asked for, the oldest first; with open network, which it was denied",
    )
    .argument(...SANDBOX)
    .option("-f, --follow", "go on until the sandbox is removed")
    .option("--denied", "only those that were denied")
    .option("--json", "print one JSON object a line");
  type Options = Output & { follow?: boolean; denied?: boolean };
  addGlobalOptions(command).action(async (id: string, options: Options) => {
    const api = await connectApi(command, context);
    const paint = painter(isatty(1) && !readEnvironment().plain);
    for await (const decision of decisions(api, id, options.follow === true)) {
      if (options.denied && decision.allowed) continue;
      await print(options.json ? safe(JSON.stringify(decision)) : logLine(decision, paint));
    }
  });
}

/** The last ones, and with `follow` those that come. */
async function* decisions(api: SandboxApi, id: string, follow: boolean): AsyncGenerator<NetworkDecision> {
  if (!follow) return yield* await api.network.decisions(id);
  // Refused here, before there is anything to follow, where nothing is filtered.
  await api.network.decisions(id);
  const events = api.events({ sandbox: id, types: ["network"] })[Symbol.asyncIterator]();
  let next = events.next();
  next.catch(() => {});
  let last = "";
  for (const decision of await api.network.decisions(id)) {
    last = [last, decision.last_at ?? decision.at ?? ""].sort()[1] ?? "";
    yield decision;
  }
  for (let event = await next; !event.done; event = await next) {
    next = events.next();
    next.catch(() => {});
    const { decision } = event.value;
    // What has come meanwhile is in both.
    if (decision && (decision.at ?? "") > last) yield decision;
  }
}

function logLine(decision: NetworkDecision, paint: Paint): string {
  const { at = "", last_at = at, allowed, count, reason } = decision;
  const verdict = allowed ? paint("green", "allowed") : paint("red", "DENIED ");
  const times = count === undefined ? "" : ` (${count} times)`;
  const protocol = decision.protocol === undefined ? "" : ` (${decision.protocol})`;
  const where = decision.host === "" ? "" : ` ${endpoint(decision)}${protocol}`;
  return `${safe(last_at)} ${verdict}${safe(`${where}${times}: ${reason}`)}`;
}

function defineLearn(parent: Command, context: CliContext): void {
  const command = parent
    .command("learn")
    .description("allow everything but internal addresses, and print the rules that what was reached needs")
    .argument(...SANDBOX)
    .option("--print", "print what was learnt so far, and leave the mode as it is")
    .option("--stop", "end it, and print what was learnt")
    .option("--apply", "end it, and make what was learnt the rules")
    .option("--collapse", "print several names below one as *.name")
    .option(...JSON_OPTION)
    .addHelpText(
      "after",
      "\nWithout --print, --stop and --apply it begins to learn, and forgets what was learnt before. Denying rules hold\n" +
        "meanwhile. While it learns, whatever is inside can send anything anywhere outside.",
    );
  type Options = Output & { print?: boolean; stop?: boolean; apply?: boolean; collapse?: boolean };
  addGlobalOptions(command).action(async (id: string, options: Options) => {
    const ways = [options.print, options.stop, options.apply].filter(Boolean).length;
    if (ways > 1) throw new UsageError("--print, --stop and --apply exclude each other");
    const api = await connectApi(command, context);
    if (ways === 0) {
      if (options.collapse)
        throw new UsageError("--collapse is for what is printed", "add --print or --stop");
      const sandbox = await api.network.change(id, { learn: true });
      if (options.json) return await print(json(await api.network.get(id)));
      return await say(
        safe(
          `${sandbox.id} learns: all but internal addresses is allowed. End it with: warren network learn ${id} --stop`,
        ),
      );
    }
    const { learnt = [], rules } = await api.network.get(id);
    const wanted = options.collapse ? collapse(learnt) : learnt;
    if (options.stop) await api.network.change(id, { learn: false });
    if (options.apply) {
      await api.network.set(id, { allow: wanted, ...(rules.deny ? { deny: rules.deny } : {}) });
    }
    if (options.json) await print(json({ allow: wanted }));
    else if (wanted.length > 0) await print(wanted.map(safe).join("\n"));
  });
}

async function printState(state: NetworkState, options: Output & { expand?: boolean }): Promise<void> {
  if (options.json) return await print(json(state));
  const { mode, rules, presets, counts, learnt, captures, records } = state;
  const rows = [
    ["mode", captures === false ? `${mode}, for programs that know a proxy only` : mode],
    ...(rules.learn
      ? [["learn", `on: all but internal addresses is allowed; ${learnt?.length ?? 0} rules learnt`]]
      : []),
    ...(["allow", "deny"] as const).flatMap((action) =>
      (rules[action] ?? []).flatMap((rule) => ruleRows(action, rule, presets, options.expand === true)),
    ),
    ...(mode === "filtered" ? [["decided", `${counts.allowed} allowed, ${counts.denied} denied`]] : []),
    ...(mode === "open"
      ? [["denied", records || counts.denied > 0 ? `${counts.denied}` : "not recorded"]]
      : []),
  ];
  await print(table(rows[0] ?? [], rows.slice(1)));
}

function ruleRows(
  action: string,
  rule: string,
  presets: NetworkState["presets"],
  expand: boolean,
): string[][] {
  const rules = rule.startsWith("preset:") ? presets[rule.slice("preset:".length)] : undefined;
  if (!rules) return [[action, rule]];
  const row = [action, `${rule}: ${rules.length} rules`];
  return expand ? [row, ...rules.map((one) => ["", `  ${one.rule}  (${one.from})`])] : [row];
}

const DEFAULT_PORT = 443;

function parseEndpoint(text: string): { host: string; port: number } {
  const [, bracketed, bare, port] = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = bracketed ?? bare;
  if (host === undefined) {
    throw new UsageError(
      `${JSON.stringify(text)} is no host and port`,
      "such as example.com:443 or [fd00::1]:22",
    );
  }
  return { host, port: port === undefined ? DEFAULT_PORT : Number(port) };
}
