// warren-launcher: what the engine can't do from Node, or what would block its event loop. See docs/wire/launcher.md.
#include <stdio.h>
#include <string.h>

#include "serve.h"

int main(int argc, char **argv) {
  if ((argc == 2 || argc == 3) && !strcmp(argv[1], "serve")) return serve(argv[2], NULL);
  struct subordinate_ids ids;
  if (argc == 8 && !strcmp(argv[1], "serve") && parse_subordinate_ids(argv + 3, &ids)) return serve(argv[2], &ids);
  // The probe runs this as a container's only program: it proves that a container can start, and needs no libraries.
  if (argc == 2 && !strcmp(argv[1], "noop")) return 0;
  fprintf(stderr, "usage: warren-launcher serve [LOCK [NEWUIDMAP NEWGIDMAP FIRST-UID FIRST-GID COUNT]]\n");
  return 64;
}
