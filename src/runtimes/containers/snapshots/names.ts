import { WarrenError } from "../../../contracts/errors.ts";

/** Of an image, after its owner; anything else under such a name is ours as well. */
const REPOSITORIES = { kept: "snapshot", draft: "snapshot-draft", retired: "snapshot-retired" } as const;
const ANY = /^localhost\/warren-[^/:@]+\/snapshot(-draft|-retired)?[:@]/;
/** It is an image's tag. */
const ID = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;

/**
 * `draft`: what the engine has committed, with all that it knows of the sandbox. `retired`: removed, but sandboxes are made
 * of it.
 */
export type SnapshotKind = keyof typeof REPOSITORIES;

/** What the engine has a snapshot as: no registry has such names. */
export interface SnapshotNames {
  repository(kind: SnapshotKind): string;
  /** Matches all of them, in an engine's filter: Podman gives nothing for two patterns. */
  pattern: string;
  /** Throws `invalid_request` for what can't be a snapshot's id. */
  of(kind: SnapshotKind, id: string): string;
  /** Undefined for any other image's name. */
  parse(name: string): { kind: SnapshotKind; id: string } | undefined;
}

export function snapshotNames(ownerId: string): SnapshotNames {
  const repository = (kind: SnapshotKind) => `localhost/warren-${ownerId}/${REPOSITORIES[kind]}`;
  return {
    repository,
    pattern: `${repository("kept")}*`,
    of(kind, id) {
      if (ID.test(id)) return `${repository(kind)}:${id}`;
      throw new WarrenError("invalid_request", `${JSON.stringify(id)} can't be a snapshot's id`);
    },
    parse(name) {
      for (const kind of Object.keys(REPOSITORIES) as SnapshotKind[]) {
        const start = `${repository(kind)}:`;
        const id = name.slice(start.length);
        if (name.startsWith(start) && ID.test(id)) return { kind, id };
      }
      return undefined;
    },
  };
}

/** Of whatever owner. */
export function isSnapshotName(name: string): boolean {
  return ANY.test(name);
}
