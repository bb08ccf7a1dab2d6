#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cgroups.h"
#include "sys.h"
#include "wire.h"

enum { LISTENER_FD = 3, INSIDE_FD = 4 };

static int become(uint32_t owner) {
  if (setgroups(0, NULL) < 0 || setresgid(owner, owner, owner) < 0 || setresuid(owner, owner, owner) < 0) return errno;
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? errno : 0;
}

// False when nobody is there to take it. A guest that takes none holds this process up, and nobody else.
static bool hand_over(int connection) {
  char note = 'c';
  struct iovec part = {&note, 1};
  union {
    struct cmsghdr align;
    unsigned char bytes[CMSG_SPACE(sizeof(int))];
  } ancillary = {0};
  struct msghdr m = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = ancillary.bytes, .msg_controllen = sizeof ancillary.bytes};
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &connection, sizeof connection);
  for (;;) {
    if (sendmsg(INSIDE_FD, &m, MSG_NOSIGNAL) >= 0) return true;
    if (errno == EPIPE || errno == ECONNRESET) return false;
    // ETOOMANYREFS among others: too many are on their way already. This one is dropped, which its peer sees.
    if (errno != EINTR) return true;
  }
}

// Reads nothing that comes from inside.
static _Noreturn void relay(void) {
  for (;;) {
    struct pollfd p[] = {{INSIDE_FD, 0, 0}, {LISTENER_FD, POLLIN, 0}};
    if (poll(p, 2, -1) < 0 && errno != EINTR) _exit(1);
    if (p[0].revents) _exit(0);
    if (!p[1].revents) continue;
    int connection = accept4(LISTENER_FD, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0) {
      // Out of descriptors or memory: it stays in the queue, and trying again at once would spin.
      if (errno != EINTR && errno != ECONNABORTED) usleep(10000);
      continue;
    }
    bool is_taken = hand_over(connection);
    close(connection);
    if (!is_taken) _exit(0);
  }
}

void start_relay(int listener, int inside, char **groups, uint32_t owner) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) < 0) answer_error(errno, "pipe");
  pid_t pid = fork();
  if (pid < 0) answer_error(errno, "fork");
  if (pid == 0) {
    setsid();
    reset_signals();
    prctl(PR_SET_NAME, "warren-relay");
    int keep = fcntl(report[1], F_DUPFD_CLOEXEC, INSIDE_FD + 1);
    int from = fcntl(listener, F_DUPFD_CLOEXEC, INSIDE_FD + 1), to = fcntl(inside, F_DUPFD_CLOEXEC, INSIDE_FD + 1);
    int error = 0;
    if (keep < 0 || from < 0 || to < 0 || dup2(from, LISTENER_FD) < 0 || dup2(to, INSIDE_FD) < 0) error = errno;
    if (!error) error = join_groups(groups);
    if (!error) error = become(owner);
    if (write(keep, &error, sizeof error) != sizeof error || error) _exit(1);
    close_from(INSIDE_FD + 1);
    relay();
  }
  close(report[1]);
  int error = EIO;
  if (read(report[0], &error, sizeof error) != sizeof error || error)
    answer_error(error, "could not start the sandbox's relay");
  close(report[0]);
}
