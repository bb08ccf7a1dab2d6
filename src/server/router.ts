import type { Route } from "./route.ts";

/** What a path leads to: its routes by method, and the values of its parameters, such as `:id`. */
export interface Match<R extends Route> {
  routes: ReadonlyMap<string, R>;
  parameters: Readonly<Record<string, string>>;
}

interface Node<R extends Route> {
  named: Map<string, Node<R>>;
  any?: Node<R>;
  anyName?: string;
  routes: Map<string, R>;
}

/** A tree of the table's paths, so that finding one takes no longer for a longer table. */
export function createRouter<R extends Route>(
  routes: readonly R[],
  prefix: string,
): (target: string) => Match<R> | undefined {
  const root = newNode<R>();
  for (const route of routes) {
    let node = root;
    for (const part of (prefix + route.path).split("/").slice(1)) {
      if (part.startsWith(":")) {
        node.anyName = part.slice(1);
        node.any ??= newNode();
        node = node.any;
      } else {
        const next: Node<R> = node.named.get(part) ?? newNode();
        node.named.set(part, next);
        node = next;
      }
    }
    node.routes.set(route.method, route);
  }

  return (target) => {
    let node: Node<R> | undefined = root;
    const parameters: Record<string, string> = {};
    for (const part of pathOf(target).split("/").slice(1)) {
      const named: Node<R> | undefined = node.named.get(part);
      if (!named && part === "") return undefined; // no parameter is empty
      if (!named && node.anyName !== undefined) parameters[node.anyName] = decoded(part);
      node = named ?? node.any;
      if (!node) return undefined;
    }
    return node.routes.size === 0 ? undefined : { routes: node.routes, parameters };
  };
}

function newNode<R extends Route>(): Node<R> {
  return { named: new Map(), routes: new Map() };
}

/** Without the query; of a target that names the server as well (RFC 9112, 3.2.2), only the path. */
function pathOf(target: string): string {
  const path = target.split("?", 1)[0] ?? "";
  return path.startsWith("/") ? path : path.replace(/^https?:\/\/[^/]*/i, "");
}

/** What is not percent-encoded as it should be stands for itself. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
