import { z } from "zod";
import { WarrenError } from "../contracts/errors.ts";
import { EventFilter } from "../contracts/events.ts";
import { BuildNetwork } from "../contracts/images.ts";
import { portProtocols } from "../contracts/ports.ts";
import { describeIssues } from "../lib/parse.ts";

const flag = z
  .enum(["true", "false", "1", "0"])
  .transform((word) => word === "true" || word === "1")
  .optional();

const count = z
  .string()
  .regex(/^\d{1,15}$/, "a whole number is needed")
  .transform(Number)
  .optional();

const path = z.string().meta({ description: "Absolute path inside the sandbox" });

const octalMode = z
  .string()
  .regex(/^0?[0-7]{1,4}$/, "octal permission bits such as 644 are needed")
  .transform((digits) => Number.parseInt(digits, 8))
  .optional();

/** Query parameters of the file routes. The path itself is checked by `checkPath`, which has codes of its own. */
export const PathQuery = z.object({ path: path.optional() });
export const ReadQuery = z.object({ path: path.optional(), offset: count, length: count });
export const WriteQuery = z.object({ path: path.optional(), mode: octalMode, parents: flag, append: flag });
export const WatchQuery = z.object({ path: path.optional(), recursive: flag });
export const StopQuery = z.object({
  timeout: z
    .string()
    .regex(/^\d{1,6}(\.\d{1,12})?$/, "seconds are needed")
    .transform(Number)
    .optional(),
});
export const LogsQuery = z.object({
  tail: count,
  follow: flag,
  until: z.string().optional(),
  stream: z.enum(["stdout", "stderr"]).optional(),
  timeout: StopQuery.shape.timeout,
});
export const EventsQuery = z.object({
  sandbox: z.string().optional().meta({ description: "Id, prefix or name" }),
  type: z
    .string()
    .transform((words) => words.split(","))
    .pipe(EventFilter.shape.types.unwrap())
    .optional()
    .meta({ description: "Of these types alone, separated by commas" }),
});
export const WaitQuery = z.object({ timeout: StopQuery.shape.timeout });
export const ImagesQuery = z.object({ prefix: z.string().optional(), runtime: z.string().optional() });
export const ImageQuery = z.object({
  reference: z.string({ error: "reference query parameter is required" }),
  runtime: z.string().optional(),
});
export const BuildQuery = z.object({
  tag: z.string({ error: "tag query parameter is required" }),
  dockerfile: z.string().optional(),
  build_arg: z.string().optional().meta({ description: "`NAME=value`; may be given more than once" }),
  target: z.string().optional(),
  no_cache: flag,
  network: BuildNetwork.optional(),
  runtime: z.string().optional(),
});
export const VolumesQuery = z.object({
  prefix: z.string().optional(),
  runtime: z.string().optional(),
});
export const VolumeQuery = z.object({
  name: z.string({ error: "name query parameter is required" }),
  runtime: z.string().optional(),
});
export const RemoveVolumeQuery = VolumeQuery.extend({ force: flag });
export const PortQuery = z.object({
  protocol: z.enum(portProtocols, { error: "a protocol is tcp or udp" }).optional(),
});
export const PruneQuery = z.object({ runtime: z.string().optional() });
export const ListSandboxesQuery = z.object({
  label: z.string().optional().meta({ description: "`name=value`; may be given more than once" }),
});

/**
 * Query parameters of a raw request target, first occurrence of each name. Names and values are decoded strictly:
 * bytes that aren't UTF-8 would otherwise become U+FFFD and name another file.
 */
export function rawQuery(target: string): [string, string][] {
  const start = target.indexOf("?");
  if (start < 0) return [];
  return target
    .slice(start + 1)
    .split("&")
    .filter((pair) => pair !== "")
    .map((pair) => {
      const equals = pair.indexOf("=");
      return equals < 0
        ? [decode(pair), ""]
        : [decode(pair.slice(0, equals)), decode(pair.slice(equals + 1))];
    });
}

export function parseQuery<S extends z.ZodType>(schema: S, target: string): z.output<S> {
  const first = new Map<string, string>();
  for (const [name, value] of rawQuery(target)) if (!first.has(name)) first.set(name, value);
  const result = schema.safeParse(Object.fromEntries(first));
  if (result.success) return result.data;
  throw new WarrenError("invalid_request", describeIssues(result.error));
}

/** All values of a parameter that may be given more than once, each `name=value`. */
export function pairsOf(target: string, parameter: string): Record<string, string> | undefined {
  const pairs = rawQuery(target)
    .filter(([name]) => name === parameter)
    .map(([, value]): [string, string] => {
      const equals = value.indexOf("=");
      if (equals < 1) throw new WarrenError("invalid_request", `${parameter}: name=value is needed`);
      if (value.startsWith("__proto__=")) {
        throw new WarrenError("invalid_request", `${parameter}: __proto__ is not a usable name`);
      }
      return [value.slice(0, equals), value.slice(equals + 1)];
    });
  return pairs.length === 0 ? undefined : Object.fromEntries(pairs);
}

/** A port's number in a path. @throws WarrenError `invalid_request` */
export function portNumber(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port >= 1 && port <= 65_535) return port;
  throw new WarrenError("invalid_request", "a port is a whole number from 1 to 65535");
}

/** 4096 bytes is the kernel's PATH_MAX, its closing NUL included. */
const MAX_PATH_BYTES = 4095;

/** den's rules and sentences for a path, and a limit on its length. */
export function checkPath(value: string | undefined, missing = "path query parameter is required"): string {
  if (value === undefined) throw new WarrenError("invalid_request", missing);
  if (value === "") throw new WarrenError("invalid_path", missing);
  if (value.includes("\0")) throw new WarrenError("invalid_path", "path contains null byte");
  if (!value.startsWith("/")) throw new WarrenError("invalid_path", "absolute path required");
  if (Buffer.byteLength(value) > MAX_PATH_BYTES) {
    throw new WarrenError("invalid_path", `path is longer than ${MAX_PATH_BYTES} bytes`);
  }
  return value;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    throw new WarrenError("invalid_path", "the query is not percent-encoded UTF-8", {
      hint: "names that are not valid UTF-8 can be reached by a command in the sandbox",
    });
  }
}
export const ExplainQuery = z.object({
  host: z.string({ error: "host query parameter is required" }).max(1024),
  port: z.coerce.number({ error: "port query parameter is a number" }).int(),
});
