import type { SandboxApi } from "../../../src/contracts/api.ts";
import type { WarrenError } from "../../../src/contracts/errors.ts";
import type { NetworkRules } from "../../../src/contracts/network.ts";
import type { CreateSandbox, SandboxInfo } from "../../../src/contracts/sandbox.ts";
import { defaultConfig } from "../../../src/engine/config.ts";

/** A sandbox as its owner believes it to be. */
export interface Box {
  status: "running" | "stopped" | "paused" | "error";
  memory: number;
  hasMain: boolean;
  /** Of open network, as JSON; of others empty. */
  rules: string;
}

/**
 * What a client knows of the sandboxes that it asked for, by name. While a call is under way, and for ever when its
 * answer never came, either of two things is true; an answer leaves one.
 */
export class World {
  /** `undefined` stands for: there is no such sandbox. */
  readonly boxes = new Map<string, (Box | undefined)[]>();
  /** By box and path: what a file may hold. */
  readonly files = new Map<string, Map<string, (string | undefined)[]>>();

  /** Of those that there are, or may be. */
  names(): string[] {
    return [...this.boxes].filter(([, possible]) => possible.some(Boolean)).map(([name]) => name);
  }

  /** Does what a client does, and notes what may have become of it. */
  actions(api: SandboxApi): Actions {
    const become = async <T>(
      name: string,
      after: (before: Box) => Box | undefined,
      call: () => Promise<T>,
      cutShort: (before: Box) => Box = (box) => box,
    ) => {
      const before = this.boxes.get(name) ?? [undefined];
      const later = before.map((box) => box && after(box));
      this.boxes.set(name, [...before, ...before.map((box) => box && cutShort(box)), ...later]);
      const result = await call();
      this.boxes.set(name, later);
      return result;
    };
    return {
      api,
      create: async (name, request = {}) => {
        this.files.set(name, new Map());
        const box: Box = {
          status: "running",
          memory: request.memory ?? defaultConfig().defaultMemoryBytes,
          hasMain: request.cmd !== undefined,
          rules: request.network_mode === "open" ? JSON.stringify(request.network ?? {}) : "",
        };
        this.boxes.set(name, [undefined, box]);
        const info = await api.create({ name, timeout: -1, ...request }).catch((error: WarrenError) => {
          // Refused or failed is undone; without an answer nobody knows.
          if (error.code !== "engine_unavailable") this.boxes.set(name, [undefined]);
          throw error;
        });
        this.boxes.set(name, [{ ...box, memory: info.memory ?? 0 }]);
        return info;
      },
      restore: async (name, original, snapshot) => {
        const box = this.boxes.get(original)?.find(Boolean);
        this.files.set(name, new Map(this.files.get(original)));
        this.boxes.set(name, [undefined, box]);
        const info = await api.snapshots.restore(snapshot, { name });
        this.boxes.set(name, [box]);
        return info;
      },
      start: (name) =>
        become(
          name,
          (box) => ({ ...box, status: "running" }),
          () => api.start(name),
          // Whatever kept it from running before is forgotten by then.
          (box) => ({ ...box, status: "stopped" }),
        ),
      failToStart: async (name) => {
        const before = this.boxes.get(name) ?? [undefined];
        const failed = before.map((box) => box && { ...box, status: "error" as const });
        this.boxes.set(name, [...before, ...failed]);
        const code = await api.start(name).then(
          () => "none",
          (error: WarrenError) => error.code,
        );
        if (code !== "runtime_failed" && code !== "image_not_found")
          throw new Error(`it failed with ${code}`);
        this.boxes.set(name, failed);
      },
      stop: (name) =>
        become(
          name,
          (box) => ({ ...box, status: "stopped" }),
          () => api.stop(name, { timeoutMs: 5000 }),
        ),
      pause: (name) =>
        become(
          name,
          (box) => ({ ...box, status: "paused" }),
          () => api.pause(name),
        ),
      resume: (name) =>
        become(
          name,
          (box) => ({ ...box, status: "running" }),
          () => api.resume(name),
        ),
      limit: (name, memory) =>
        become(
          name,
          (box) => ({ ...box, memory }),
          () => api.update(name, { memory, memory_high: memory / 2 }),
        ),
      rule: (name, rules) =>
        become(
          name,
          (box) => ({ ...box, rules: JSON.stringify(rules) }),
          () => api.network.set(name, rules),
        ),
      remove: (name) =>
        become(
          name,
          () => undefined,
          () => api.remove(name),
        ),
      write: async (name, path, text) => {
        const files = this.files.get(name) ?? new Map<string, (string | undefined)[]>();
        this.files.set(name, files);
        files.set(path, [...(files.get(path) ?? [undefined]), text]);
        await api.files.write(name, path, Buffer.from(text));
        files.set(path, [text]);
      },
    };
  }
}

export interface Actions {
  readonly api: SandboxApi;
  create(name: string, request?: CreateSandbox): Promise<SandboxInfo>;
  /** From a snapshot of another, which had then what it has now. */
  restore(name: string, original: string, snapshot: string): Promise<SandboxInfo>;
  start(name: string): Promise<unknown>;
  /** For one whose start must fail. */
  failToStart(name: string): Promise<void>;
  stop(name: string): Promise<unknown>;
  pause(name: string): Promise<unknown>;
  resume(name: string): Promise<unknown>;
  limit(name: string, memory: number): Promise<unknown>;
  rule(name: string, rules: NetworkRules): Promise<unknown>;
  remove(name: string): Promise<unknown>;
  write(name: string, path: string, text: string): Promise<void>;
}
