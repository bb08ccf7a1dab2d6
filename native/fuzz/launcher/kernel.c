// What the launcher's requests act on: pipes that are only memory, programs that never run, files that come from the
// weather.
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../launcher/wire.h"
#include "../fuzz.h"
#include "redirect-prototypes.h"

enum { FIRST_FAKE = 64, MOST_FAKE = 1200, MOST_CALLS = 200000, HEADER_ROOM = 9 };

struct bytes {
  unsigned char *data;
  size_t length, sent;
};

struct file {
  unsigned depth; // of the process that opened it, plus one; 0: free
  struct file *source; // whose bytes it writes: a pipe's read end
  bool is_programs; // a program may write to it
  struct bytes bytes;
};

static struct {
  struct file file[MOST_FAKE];
  size_t used;
  unsigned char answer[HEADER_ROOM];
  size_t answer_have, answer_left;
  unsigned calls;
  size_t entries;
} k;

static void forget(struct file *f) {
  free(f->bytes.data);
  *f = (struct file){0};
}

void kernel_reset(void) { k.used = k.answer_have = k.answer_left = k.entries = k.calls = 0; }

void kernel_end(void) {
  while (k.used > 0) forget(&k.file[--k.used]);
  if (k.answer_have != 0 || k.answer_left != 0) fuzz_finding("half an answer");
}

int fuzz_sometimes(int error) {
  if (++k.calls > MOST_CALLS) fuzz_finding("a request that does not end");
  if (fuzz_choose(8) != 7) return 0;
  errno = error;
  return -1;
}

int fuzz_new_fd(void) {
  size_t i = 0;
  while (i < k.used && k.file[i].depth != 0) i++;
  if (i == MOST_FAKE) fuzz_finding("1200 descriptors are open");
  if (i == k.used) k.used++;
  k.file[i] = (struct file){.depth = fuzz_depth + 1, .source = &k.file[i]};
  return FIRST_FAKE + (int)i;
}

static struct file *file_of(int fd) {
  if (fd < FIRST_FAKE || (size_t)(fd - FIRST_FAKE) >= k.used || k.file[fd - FIRST_FAKE].depth == 0)
    fuzz_finding("a descriptor is used that is not open");
  return &k.file[fd - FIRST_FAKE];
}

int fuzz_dup(int fd) {
  struct file *source = file_of(fd)->source;
  int copy = fuzz_new_fd();
  file_of(copy)->source = source;
  return copy;
}

int fuzz_fd_or_error(void) { return fuzz_sometimes(EMFILE) == 0 ? fuzz_new_fd() : -1; }

int fuzz_pipe2(int fds[2]) {
  // The serving process makes the next worker's pipe: the last worker and its descriptors have gone.
  for (size_t i = 0; fuzz_depth == 0 && i < k.used; i++)
    if (k.file[i].depth > 1) forget(&k.file[i]);
  if (fuzz_sometimes(EMFILE) < 0) return -1;
  fds[0] = fuzz_new_fd();
  fds[1] = fuzz_new_fd();
  file_of(fds[1])->source = file_of(fds[0]);
  file_of(fds[0])->is_programs = fuzz_depth > 0;
  return 0;
}

int fuzz_close(int fd) {
  // A process closes what was there before it for itself only.
  if (fd < FIRST_FAKE || (size_t)(fd - FIRST_FAKE) >= k.used || k.file[fd - FIRST_FAKE].depth != fuzz_depth + 1) return 0;
  struct file *f = &k.file[fd - FIRST_FAKE];
  for (size_t i = 0; i < k.used; i++)
    if (k.file[i].source == f) k.file[i].source = &k.file[i];
  forget(f);
  return 0;
}

int fuzz_look_at_path(const char *path) {
  fuzz_look_at_text(path);
  return fuzz_sometimes(fuzz_choose(2) == 0 ? ENOENT : ENOTEMPTY);
}

int fuzz_mount(const char *source, const char *target, const char *type, const void *options) {
  if (source != NULL) fuzz_look_at_text(source);
  fuzz_look_at_text(target);
  if (type != NULL) fuzz_look_at_text(type);
  if (options != NULL) fuzz_look_at_text(options);
  return fuzz_sometimes(EPERM);
}

int fuzz_open(const char *path) {
  fuzz_look_at_text(path);
  if (fuzz_sometimes(ENOENT) < 0) return -1;
  int fd = fuzz_new_fd();
  // A file of /proc, or a pid file: what it holds is the weather's.
  struct bytes *b = &file_of(fd)->bytes;
  static const char *const texts[] = {"", "4711 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 20", "4711\n",
                                      "1 (a) b) Z 1", "0::/x/warren/abcdef\n1:cpu:/y\n", ")", "99999999999999999999"};
  const char *text = texts[fuzz_choose(7)];
  size_t noise = fuzz_choose(32);
  b->length = strlen(text) + noise;
  b->data = malloc(b->length + 1);
  if (b->data == NULL) abort();
  memcpy(b->data, text, strlen(text));
  for (size_t i = 0; i < noise; i++) b->data[strlen(text) + i] = (unsigned char)fuzz_choose(256);
  return fd;
}

ssize_t fuzz_read(int fd, void *to, size_t bytes) {
  struct file *f = file_of(fd);
  struct bytes *b = &f->bytes;
  if (fuzz_sometimes(EINTR) < 0) return -1;
  if (b->sent == b->length && f->is_programs && bytes > sizeof(int) && fuzz_choose(4) == 3) {
    size_t noise = bytes < 40000 ? bytes : 40000;
    memset(to, 'o', noise);
    return (ssize_t)noise;
  }
  size_t left = b->length - b->sent;
  size_t n = left < bytes ? left : bytes;
  if (n > 0) memcpy(to, b->data + b->sent, n);
  b->sent += n;
  return (ssize_t)n;
}

// An answer to the engine: a length, an id, a status, and a payload.
static void check_answer(const unsigned char *at, size_t bytes) {
  while (bytes > 0) {
    if (k.answer_left > 0) {
      size_t n = k.answer_left < bytes ? k.answer_left : bytes;
      k.answer_left -= n;
      at += n;
      bytes -= n;
      continue;
    }
    k.answer[k.answer_have++] = *at++;
    bytes--;
    if (k.answer_have < HEADER_ROOM) continue;
    k.answer_have = 0;
    size_t length = k.answer[0] | k.answer[1] << 8 | k.answer[2] << 16 | (size_t)k.answer[3] << 24;
    if (length < 5 || length > MAX_ANSWER + 4) fuzz_finding("an answer of a wrong length");
    if (k.answer[8] > 1) fuzz_finding("an answer that is neither good nor bad");
    k.answer_left = length - 5;
  }
}

ssize_t fuzz_write(int fd, const void *from, size_t bytes) {
  fuzz_look_at(from, bytes);
  if (fd == STDOUT_FILENO) {
    check_answer(from, bytes);
    return (ssize_t)bytes;
  }
  if (fuzz_sometimes(EINTR) < 0) return -1;
  if (bytes > 1 && fuzz_choose(8) == 7) bytes /= 2;
  struct bytes *b = &file_of(fd)->source->bytes;
  b->data = realloc(b->data, b->length + bytes + 1);
  if (b->data == NULL) abort();
  memcpy(b->data + b->length, from, bytes);
  b->length += bytes;
  return (ssize_t)bytes;
}

int fuzz_poll(struct pollfd *p, nfds_t count, int timeout_ms) {
  int ready = 0;
  if (fuzz_sometimes(EINTR) < 0) return -1;
  unsigned not_now = fuzz_choose(256);
  for (nfds_t i = 0; i < count; i++) {
    bool is_ready = p[i].fd >= 0 && p[i].events != 0 && (not_now & (1u << (i % 8))) == 0;
    p[i].revents = is_ready ? p[i].events : 0;
    if (is_ready) ready++;
  }
  if (ready == 0) fuzz_pass_ms(timeout_ms > 0 ? (uint64_t)timeout_ms : 1);
  return ready > 0 || timeout_ms >= 0 ? ready : (errno = EINTR, -1);
}

long fuzz_syscall(long number, ...) {
  va_list args;
  va_start(args, number);
  if (number == 437 || number == 428 || number == 429 || number == 442) { // they have a path after a descriptor
    (void)va_arg(args, int);
    fuzz_look_at_text(va_arg(args, const char *));
  }
  va_end(args);
  if (fuzz_sometimes(number == 434 ? ESRCH : ENOENT) < 0) return -1;
  if (number == SYS_clone) return FUZZ_PID;
  // pidfd_open, openat2, open_tree, fsopen, fsmount
  bool gives_fd = number == 434 || number == 437 || number == 428 || number == 430 || number == 432;
  return gives_fd || number == SYS_memfd_create ? fuzz_new_fd() : 0;
}

pid_t fuzz_waitpid(pid_t pid, int *status) {
  static const int statuses[] = {0, 1 << 8, 127 << 8, SIGKILL};
  if (pid < 0) return -1;
  if (status != NULL) *status = statuses[fuzz_choose(4)];
  return pid;
}

int fuzz_kill(pid_t pid, int number) {
  if (pid != FUZZ_PID && pid != -FUZZ_PID) fuzz_finding("a signal to a process that is none of its own");
  if (number < 1 || number > 64) fuzz_finding("a signal with no such number");
  return 0;
}

int fuzz_execve(const char *path, char *const *argv, char *const *env) {
  fuzz_look_at_text(path);
  fuzz_look_at_list(argv);
  fuzz_look_at_list(env);
  if (fuzz_sometimes(ENOENT) < 0) return -1;
  fuzz_exit(0);
}

FILE *fuzz_fopen(const char *path) {
  static char pids[] = "4711\n1\n0\n4712\n";
  fuzz_look_at_text(path);
  return fuzz_sometimes(ENOENT) == 0 ? fmemopen(pids, sizeof pids - 1, "r") : NULL;
}

ssize_t fuzz_readlink(const char *path, char *to, size_t bytes) {
  static const char *const places[] = {"/stage/rootfs", "/stage/rootfs/data", "/stage/rootfs/dev", "/elsewhere"};
  fuzz_look_at_text(path);
  if (fuzz_sometimes(ENOENT) < 0) return -1;
  const char *place = places[fuzz_choose(4)];
  size_t n = strlen(place) < bytes ? strlen(place) : bytes;
  memcpy(to, place, n);
  return (ssize_t)n;
}

DIR *fuzz_fdopendir(int fd) {
  (void)fd;
  return fuzz_sometimes(ENOMEM) == 0 ? (DIR *)&k : NULL;
}

struct dirent *fuzz_readdir(void) {
  static struct dirent e;
  static const char *const names[] = {".", "..", "a", "b"};
  if (k.entries > 200 || fuzz_choose(4) == 0) return NULL;
  k.entries++;
  unsigned which = fuzz_choose(8);
  strcpy(e.d_name, names[which % 4]);
  e.d_type = which < 5 ? DT_DIR : DT_REG;
  return &e;
}
