import { resolve } from "node:path";
import type { StorageConfig } from "../contracts/storage.ts";
import { UsageError } from "./report.ts";

export interface Mount {
  type: "volume" | "bind";
  source: string;
  target: string;
  readOnly: boolean;
}

const MOUNT_FORM = "--mount type=bind,source=/path,target=/path[,readonly]";

/** `SRC:DST` or `SRC:DST:ro`: a path (`/…`, `./…`, `../…`) is a bind, anything else a volume's name. */
export function parseVolume(entry: string): Mount {
  const [source = "", target = "", mode, ...more] = entry.split(":");
  if (more.length > 0 || (mode !== undefined && mode !== "ro" && mode !== "rw")) {
    throw new UsageError(
      `${JSON.stringify(entry)} is not SRC:DST or SRC:DST:ro`,
      `for paths with colons: ${MOUNT_FORM}`,
    );
  }
  if (source === "" || !target.startsWith("/")) {
    throw new UsageError(
      `${JSON.stringify(entry)} is not a volume`,
      "write it as name:/path, ./directory:/path or /directory:/path:ro",
    );
  }
  const type = /^(\/|\.\.?(\/|$))/.test(source) ? "bind" : "volume";
  return { type, source, target, readOnly: mode === "ro" };
}

/** `type=bind,source=…,target=…,readonly`, with Docker's other words for these. */
export function parseMount(entry: string): Mount {
  const fields = new Map<string, string>();
  for (const part of entry.split(",")) {
    const equals = part.indexOf("=");
    const [key, value] = equals < 0 ? [part, "true"] : [part.slice(0, equals), part.slice(equals + 1)];
    const name = { src: "source", dst: "target", destination: "target", ro: "readonly" }[key] ?? key;
    if (!["type", "source", "target", "readonly"].includes(name) || fields.has(name)) throw notAMount(entry);
    fields.set(name, value);
  }
  const type = fields.get("type");
  const source = fields.get("source") ?? "";
  const target = fields.get("target") ?? "";
  const readonly = fields.get("readonly") ?? "false";
  const isWhole = (type === "bind" || type === "volume") && source !== "" && target.startsWith("/");
  if (!isWhole || !["true", "false"].includes(readonly)) throw notAMount(entry);
  return { type, source, target, readOnly: readonly === "true" };
}

function notAMount(entry: string): UsageError {
  return new UsageError(
    `${JSON.stringify(entry)} is not a mount`,
    `write it as ${MOUNT_FORM} or type=volume,source=NAME,target=/path; a path has no comma in it`,
  );
}

/** As the API wants it. Relative paths are seen from here, so the engine must be on this machine. */
export function storageOf(
  mounts: readonly Mount[],
  isLocal: boolean,
): Pick<StorageConfig, "volumes" | "binds"> {
  const volumes = mounts
    .filter(({ type }) => type === "volume")
    .map(({ source, target, readOnly }) => ({ name: source, mount_path: target, ...readOnlyOf(readOnly) }));
  const binds = mounts
    .filter(({ type }) => type === "bind")
    .map(({ source, target, readOnly }) => {
      if (!isLocal && !source.startsWith("/")) {
        throw new UsageError(
          `${source} is a path of this machine, and the server may be another`,
          "give an absolute path of the server's machine",
        );
      }
      return { source: resolve(source), mount_path: target, ...readOnlyOf(readOnly) };
    });
  return { ...(volumes.length > 0 ? { volumes } : {}), ...(binds.length > 0 ? { binds } : {}) };
}

const readOnlyOf = (readOnly: boolean) => (readOnly ? { read_only: true } : {});
