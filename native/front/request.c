#include "front.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/// Settings that the CLI has to look at. An empty variable counts as absent.
static const char *const others[] = {"WARREN_URL", "WARREN_API_KEY", "WARREN_DEBUG"};

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value != NULL && *value != '\0' ? value : NULL;
}

/// False: it can't be told, is not there, or is not ours alone; the CLI says so.
static bool find_socket(struct request *r) {
  char dir[PATH_MAX];
  const char *chosen = r->state_dir != NULL ? r->state_dir : variable("WARREN_STATE_DIR");
  const char *data = variable("XDG_STATE_HOME"), *home = variable("HOME");
  int count;
  if (chosen != NULL) count = snprintf(dir, sizeof dir, "%s", chosen);
  else if (getuid() == 0) count = snprintf(dir, sizeof dir, "/var/lib/warren");
  else if (data != NULL && data[0] == '/') count = snprintf(dir, sizeof dir, "%s/warren", data);
  else if (home != NULL && home[0] == '/') count = snprintf(dir, sizeof dir, "%s/.local/state/warren", home);
  else return false;
  struct stat found;
  if (count <= 0 || (size_t)count >= sizeof dir || stat(dir, &found) != 0) return false;
  if (!S_ISDIR(found.st_mode) || found.st_uid != getuid() || (found.st_mode & 022) != 0) return false;
  count = snprintf(r->socket, sizeof r->socket, "%s/engine.sock", dir);
  return count > 0 && (size_t)count < sizeof r->socket;
}

/// Letters that need no care in a URL.
static bool is_plain_id(const char *id) {
  size_t length = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
  return length > 0 && length < 128 && id[length] == '\0';
}

/// `-x VALUE` or `--long VALUE`: the value, and *i is at it.
static char *value_of(int argc, char **argv, int *i, const char *brief, const char *full) {
  bool is_it = (brief != NULL && strcmp(argv[*i], brief) == 0) || strcmp(argv[*i], full) == 0;
  return is_it && *i + 1 < argc ? argv[++*i] : NULL;
}

static bool add_variable(struct text *env, const char *entry) {
  const char *equals = strchr(entry, '=');
  // A name alone means our own variable.
  if (equals == NULL || equals == entry || (size_t)(equals - entry) >= 256) return false;
  char name[256];
  snprintf(name, sizeof name, "%.*s", (int)(equals - entry), entry);
  add_str(env, env->bytes == 0 ? "{" : ",");
  bool fine = add_json_string(env, name);
  add_str(env, ":");
  return fine && add_json_string(env, equals + 1);
}

bool parse_request(int argc, char **argv, struct request *r) {
  memset(r, 0, sizeof *r);
  for (size_t k = 0; k < sizeof others / sizeof *others; k++)
    if (variable(others[k]) != NULL) return false;
  const char *workdir = NULL, *user = NULL, *value;
  struct text env = {0};
  int i = 2;
  for (; i < argc && argv[i][0] == '-'; i++) {
    if (strcmp(argv[i], "-i") == 0 || strcmp(argv[i], "--interactive") == 0) r->interactive = true;
    else if ((value = value_of(argc, argv, &i, "-w", "--workdir")) != NULL) workdir = value;
    else if ((value = value_of(argc, argv, &i, "-u", "--user")) != NULL) user = value;
    else if ((value = value_of(argc, argv, &i, NULL, "--state-dir")) != NULL) r->state_dir = value;
    else if ((value = value_of(argc, argv, &i, "-e", "--env")) == NULL || !add_variable(&env, value)) return false;
  }
  if (i >= argc || !is_plain_id(argv[i])) return false;
  r->id = argv[i++];
  if (i < argc && strcmp(argv[i], "--") == 0) i++;
  if (i >= argc || !find_socket(r)) return false;
  struct text *start = &r->start;
  bool fine = true;
  add_str(start, "{\"cmd\":");
  for (const char *before = "["; i < argc; i++, before = ",") {
    add_str(start, before);
    fine = add_json_string(start, argv[i]) && fine;
  }
  add_str(start, "],\"binary\":true");
  if (r->interactive) add_str(start, ",\"stdin\":true");
  if (workdir != NULL) {
    add_str(start, ",\"workdir\":");
    fine = add_json_string(start, workdir) && fine;
  }
  if (user != NULL) {
    add_str(start, ",\"user\":");
    fine = add_json_string(start, user) && fine;
  }
  if (env.bytes > 0) {
    add_str(&env, "}");
    add_str(start, ",\"env\":");
    add(start, env.at, env.bytes);
  }
  add_str(start, "}");
  // Where the same variable is given twice, the last one counts: to JSON.parse as to the CLI.
  return fine && !env.full && !start->full && start->bytes < MAX_TEXT - 64;
}
