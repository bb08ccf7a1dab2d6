#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// These files come with the image, so they are read with limits and without NSS, which would run the image's code.
#define MAX_FILE (1 << 20)
#define MAX_LINE 8192

/// The file's text, NUL-terminated; NULL with errno. A missing file is empty.
static char *read_database(const char *path) {
  int fd = open_plain(AT_FDCWD, path, O_RDONLY);
  if (fd < 0 && errno == ENOENT) return calloc(1, 1);
  if (fd < 0) return NULL;
  struct stat st;
  char *text = NULL;
  if (fstat(fd, &st) != 0) {
    // errno is set
  } else if (!S_ISREG(st.st_mode)) {
    errno = EINVAL;
  } else if (st.st_size > MAX_FILE) {
    errno = EFBIG;
  } else {
    text = malloc((size_t)st.st_size + 1);
  }
  size_t have = 0;
  while (text != NULL && have < (size_t)st.st_size) {
    ssize_t n = read(fd, text + have, (size_t)st.st_size - have);
    if (n <= 0) break;
    have += (size_t)n;
  }
  if (text != NULL) text[have] = 0;
  int error = errno;
  close(fd);
  errno = error;
  return text;
}

/// Splits the next line at its colons into at most `most` fields; how many, 0 at the end. Overlong lines are passed over.
static size_t next_record(char **cursor, char **field, size_t most) {
  while (**cursor != 0) {
    char *line = *cursor;
    char *end = strchrnul(line, '\n');
    *cursor = *end == 0 ? end : end + 1;
    if (end - line > MAX_LINE || line == end || *line == '#') continue;
    *end = 0;
    size_t count = 0;
    for (char *at = line; count < most;) {
      field[count++] = at;
      at = strchr(at, ':');
      if (at == NULL) break;
      *at++ = 0;
    }
    return count;
  }
  return 0;
}

/// A decimal id below 2^32-1, which the kernel takes as "no change".
static bool parse_id(const char *text, uint32_t *id) {
  uint64_t value = 0;
  if (*text == 0) return false;
  for (; *text != 0; text++) {
    if (*text < '0' || *text > '9') return false;
    value = value * 10 + (uint64_t)(*text - '0');
    if (value >= UINT32_MAX) return false;
  }
  *id = (uint32_t)value;
  return true;
}

static int find_passwd(const char *name, uint32_t uid, bool by_name, struct account *a) {
  char *text = read_database("/etc/passwd");
  if (text == NULL) return errno;
  int result = ESRCH;
  char *f[7];
  char *cursor = text;
  for (size_t n; result != 0 && (n = next_record(&cursor, f, 7)) != 0;) {
    uint32_t id, gid;
    if (n < 6 || *f[0] == 0 || !parse_id(f[2], &id) || !parse_id(f[3], &gid)) continue;
    if (by_name ? strcmp(f[0], name) != 0 : id != uid) continue;
    a->uid = id;
    a->gid = gid;
    snprintf(a->name, sizeof a->name, "%s", f[0]);
    snprintf(a->home, sizeof a->home, "%s", f[5]);
    result = 0;
  }
  free(text);
  return result;
}

static bool lists(char *names, const char *name) {
  size_t length = strlen(name);
  for (char *at = names; at != NULL; at = strchr(at, ',')) {
    if (*at == ',') at++;
    if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == 0)) return true;
  }
  return false;
}

/// With `group_name`: that group's id into `gid`. Without: the groups that list the account's name as a member.
static int find_groups(const char *group_name, uint32_t *gid, struct account *a) {
  char *text = read_database("/etc/group");
  if (text == NULL) return errno;
  int result = group_name != NULL ? ESRCH : 0;
  char *f[4];
  char *cursor = text;
  for (size_t n; (n = next_record(&cursor, f, 4)) != 0;) {
    uint32_t id;
    if (n < 3 || !parse_id(f[2], &id)) continue;
    if (group_name != NULL) {
      if (strcmp(f[0], group_name) != 0) continue;
      *gid = id;
      result = 0;
      break;
    }
    if (n == 4 && a->name[0] != 0 && id != a->gid && lists(f[3], a->name) &&
        a->group_count < sizeof a->groups / sizeof *a->groups) {
      a->groups[a->group_count++] = id;
    }
  }
  free(text);
  return result;
}

int find_account(const char *spec, struct account *a) {
  memset(a, 0, sizeof *a);
  a->uid = geteuid();
  a->gid = getegid();
  if (*spec == 0) {
    find_passwd(NULL, a->uid, false, a);
    a->uid = geteuid();
    a->gid = getegid();
    return 0;
  }
  a->change = true;
  char user[256];
  const char *colon = strchr(spec, ':');
  size_t length = colon != NULL ? (size_t)(colon - spec) : strlen(spec);
  if (length == 0 || length >= sizeof user) return ESRCH;
  memcpy(user, spec, length);
  user[length] = 0;

  uint32_t id;
  int error = find_passwd(user, 0, true, a);
  if (error == ESRCH && parse_id(user, &id)) {
    // An id needs no entry: then it has no name, no home, and group 0.
    error = find_passwd(NULL, id, false, a);
    if (error == ESRCH) {
      a->uid = id;
      a->gid = 0;
      error = 0;
    }
  }
  if (error != 0) return error;
  if (colon != NULL) {
    uint32_t gid = 0;
    error = find_groups(colon + 1, &gid, a);
    if (error == ESRCH && parse_id(colon + 1, &gid)) error = 0;
    if (error != 0) return error;
    a->gid = gid;
    a->groups[a->group_count++] = gid;
    return 0;
  }
  a->groups[a->group_count++] = a->gid;
  return find_groups(NULL, NULL, a);
}
