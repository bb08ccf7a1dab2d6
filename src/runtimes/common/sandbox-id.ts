/** Longest sandbox id; ids become directory, cgroup and container names. */
const MAX_ID = 64;

const idPattern = /^[a-zA-Z0-9][a-zA-Z0-9_-]*$/;

/** True for what can be a directory, a cgroup and a container name at once. */
export function isSandboxId(id: string): boolean {
  return id.length <= MAX_ID && idPattern.test(id);
}
