// An ordinary user's own user namespace. Capabilities that the host doesn't give us count in it, over the ids that it maps:
// 0 is the user, 1 and up are the user's subordinate ids (subuid(5)), the first of which is the sandboxes' root.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// The host's id of the user stays out of every sandbox: what escapes from one is not even the user.
enum { FIRST_SUBORDINATE = 1 };

struct subordinate_ids {
  const char *newuidmap, *newgidmap;
  uint32_t first_uid, first_gid, count;
};

// From five arguments: newuidmap, newgidmap, first uid, first gid, count. False when they are something else.
bool parse_subordinate_ids(char **argv, struct subordinate_ids *ids);

// Makes the namespace. What went wrong is kept, for those who need it.
void make_user_namespace(const struct subordinate_ids *ids);

// True when there is a namespace of the user's, or should be.
bool is_rootless(void);

// How many there are: a sandbox's ids.
uint32_t subordinate_count(void);

// For a worker: into that namespace, as its id 0, with all capabilities. Does nothing for root. Ends the worker on failure.
void enter_user_namespace(void);

// For the child of a worker, in that namespace: into one where ids are a sandbox's own, and the user is a further one with
// all capabilities, which a program that is started keeps. 0, or -1 and errno.
int enter_image_namespace(int idmap_fd);
