import type { Duplex } from "node:stream";
import { WarrenError } from "../../contracts/errors.ts";
import { acceptAll } from "../accept-loop.ts";
import { type Core, guestOf } from "../core.ts";
import type { SandboxRecord } from "../record.ts";
import { type OpenService, SERVICE_DIR, type Served, type Service } from "./service.ts";

/** What the main command of a sandbox with services waits for. */
export const READY_FILE = `${SERVICE_DIR}/ready`;
/** Connections that wait inside for a program, for each service of a sandbox. */
const WAITING = 2;
/** Programs of one sandbox that a service serves at one time: the oldest connection makes room. */
const MOST_PROGRAMS = 32;

/** The services of all sandboxes that run. */
export interface ServiceManager {
  /** Variables of all commands. */
  environment(record: Served): Record<string, string>;
  /** What the main command waits for, if anything. */
  mainAfter(record: Served): string | undefined;
  /**
   * Has programs inside reach what the sandbox has, once for each of its runs.
   * @throws WarrenError `unsupported` where its guest is too old, `port_in_use`
   */
  prepare(record: SandboxRecord): Promise<void>;
  /** Serves the programs of a sandbox that has just come to run, was found running, or has another service now. */
  follow(record: SandboxRecord): void;
  /** The run is over. */
  forget(id: string): void;
  close(): void;
}

interface Run {
  prepared: Map<Service, Promise<void>>;
  open: Map<Service, OpenService>;
  stop: AbortController;
}

export function createServiceManager(core: Core, services: readonly Service[]): ServiceManager {
  const runs = new Map<string, Run>();
  const wanted = (record: Served) => services.filter((service) => service.isWanted(record));

  const runOf = (id: string): Run => {
    const run = runs.get(id) ?? { prepared: new Map(), open: new Map(), stop: new AbortController() };
    runs.set(id, run);
    return run;
  };

  const listen = async (record: SandboxRecord, service: Service) => {
    const guest = guestOf(core, record);
    const { hasServices, version } = await guest.hello();
    if (!hasServices) {
      throw new WarrenError("unsupported", `${service.name}: the sandbox runs a guest of Warren ${version}`, {
        hint: `have it started anew: warren stop ${record.id}; warren start ${record.id}`,
      });
    }
    await guest.listen(service.number, service.at);
  };

  const prepare = async (record: SandboxRecord) => {
    const mine = wanted(record);
    if (mine.length === 0) return;
    const { prepared } = runOf(record.id);
    const fresh = mine.filter((service) => !prepared.has(service));
    for (const service of fresh) {
      const done = listen(record, service);
      prepared.set(service, done);
      done.catch(() => prepared.delete(service));
    }
    for (const service of mine) await prepared.get(service);
    if (fresh.length > 0)
      await guestOf(core, record).writeFile(READY_FILE, Buffer.alloc(0), { parents: true });
  };

  const serve = (record: SandboxRecord, service: Service, { open, stop }: Run) => {
    const opened = service.open(record);
    open.set(service, opened);
    const programs = new Set<Duplex>();
    const take = (program: Duplex) => {
      program.on("error", () => {}); // it is the program's loss
      const [oldest] = programs;
      if (oldest && programs.size >= MOST_PROGRAMS) oldest.destroy();
      programs.add(program);
      program.once("close", () => programs.delete(program));
      opened.serve(program).then(
        () => {},
        () => program.destroy(),
      );
    };
    const guest = guestOf(core, record);
    stop.signal.addEventListener("abort", () => {
      for (const program of programs) program.destroy();
      opened.close?.();
    });
    for (let i = 0; i < WAITING; i++) {
      void acceptAll((until) => guest.acceptService(service.number, until), take, stop.signal);
    }
  };

  const forget = (id: string) => {
    const run = runs.get(id);
    runs.delete(id);
    run?.stop.abort();
  };

  return {
    environment: (record) => Object.assign({}, ...wanted(record).map((one) => one.environment(record))),
    mainAfter: (record) => (wanted(record).length > 0 ? READY_FILE : undefined),
    prepare,
    follow(record) {
      const mine = wanted(record);
      if (mine.length === 0) return;
      const run = runOf(record.id);
      if (record.state !== "paused") {
        prepare(record).catch((error: unknown) => {
          core.log.warn({ err: error, sandbox: record.id }, "a sandbox could not be given its services");
        });
      }
      for (const service of mine) if (!run.open.has(service)) serve(record, service, run);
    },
    forget,
    close() {
      for (const id of [...runs.keys()]) forget(id);
    },
  };
}
