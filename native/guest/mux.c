// Many connections to the guest's socket over one pair of byte streams, stdin and stdout. docs/wire/mux.md is the protocol.
//
// Every stream has a window in each direction. What the host sends beyond what a connection takes at once waits here, and
// a window bounds it; of what a connection says, no more is read than the host has room for. So nothing that one
// connection does or leaves undone holds up another.
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
  FRAME_HEADER = 8,
  MOST_DATA = 32 << 10,
  WINDOW = 256 << 10,
  MOST_STREAMS = 2048,
  GRANT_AT = WINDOW / 4,
  CONTROL_BYTES = FRAME_HEADER + 4, // the longest frame but DATA
  OUT_BYTES = 256 << 10,
  OUT_RESERVE = 4096, // of it, that DATA leaves to other frames
  LEAST_ROOM = 4096, // for which DATA is worth a frame
};

enum mux_type { MUX_READY = 1, MUX_OPEN, MUX_DATA, MUX_EOF, MUX_RESET, MUX_CREDIT, MUX_OPENED };

struct stream {
  uint32_t id;
  int fd;
  uint32_t allowance; // bytes that the host still takes
  uint32_t granted; // bytes that it may still send
  uint32_t owed; // bytes that were passed on, and not granted again yet
  unsigned char *waiting; // a ring of WINDOW bytes; NULL while nothing waits
  uint32_t start, count;
  int error; // to be told by RESET; 0: none
  bool host_ended; // its EOF has come
  bool shut; // and was passed on
  bool unheard; // the connection takes nothing any more
  bool source_ended;
  bool over; // to be forgotten
};

static struct {
  struct stream streams[MOST_STREAMS]; // by id
  size_t count;
  size_t turn; // whose it is to be read first
  uint32_t last_id;
  struct sockaddr_un address;

  unsigned char in[64 << 10];
  size_t in_start, in_end;
  uint32_t data_id; // of a DATA frame whose payload is still coming
  size_t data_left;

  unsigned char out[OUT_BYTES];
  size_t out_start, out_end;
} m;

static volatile sig_atomic_t ending;

/// PID 1 says that it is about to leave. Nobody else is heard: a payload may send a signal to everybody.
static void on_term(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)context;
  if (info->si_pid == 1) ending = 1;
}

_Noreturn static void give_up(const char *why) {
  if (write(STDERR_FILENO, why, strlen(why)) < 0) _exit(1);
  _exit(1);
}

static struct stream *find_stream(uint32_t id) {
  size_t low = 0, high = m.count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (m.streams[middle].id < id) low = middle + 1;
    else high = middle;
  }
  return low < m.count && m.streams[low].id == id && !m.streams[low].over ? &m.streams[low] : NULL;
}

// ---- to the host

static size_t out_room(void) {
  return OUT_BYTES - (m.out_end - m.out_start);
}

/// Room in one piece at the end.
static unsigned char *out_at(size_t bytes) {
  if (OUT_BYTES - m.out_end < bytes) {
    memmove(m.out, m.out + m.out_start, m.out_end - m.out_start);
    m.out_end -= m.out_start;
    m.out_start = 0;
  }
  return m.out + m.out_end;
}

static void put_frame_header(unsigned char *at, uint32_t id, unsigned type, size_t bytes) {
  put32(at, id);
  at[4] = (unsigned char)type;
  at[5] = 0;
  put16(at + 6, (uint16_t)bytes);
}

/// The caller knows that there is room.
static void say(uint32_t id, unsigned type) {
  put_frame_header(out_at(FRAME_HEADER), id, type, 0);
  m.out_end += FRAME_HEADER;
}

static void say_number(uint32_t id, unsigned type, uint32_t value) {
  unsigned char *at = out_at(CONTROL_BYTES);
  put_frame_header(at, id, type, 4);
  put32(at + FRAME_HEADER, value);
  m.out_end += CONTROL_BYTES;
}

static void flush_out(void) {
  while (m.out_start < m.out_end) {
    ssize_t n = write(STDOUT_FILENO, m.out + m.out_start, m.out_end - m.out_start);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) _exit(0);
    m.out_start += (size_t)n;
  }
  m.out_start = m.out_end = 0;
}

// ---- one connection

static void drop_waiting(struct stream *s) {
  free(s->waiting);
  s->waiting = NULL;
  s->start = s->count = 0;
}

static void end_stream(struct stream *s) {
  drop_waiting(s);
  close(s->fd);
  s->over = true;
}

static void forget_ended(void) {
  size_t kept = 0;
  for (size_t i = 0; i < m.count; i++) {
    if (!m.streams[i].over) m.streams[kept++] = m.streams[i];
  }
  m.count = kept;
}

/// How many of the bytes it took. Once it takes none any more, what it has said is still read.
static size_t push(struct stream *s, const unsigned char *bytes, size_t count) {
  size_t done = 0;
  while (done < count) {
    ssize_t n = send(s->fd, bytes + done, count - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) {
      s->unheard = true;
      break;
    }
    done += (size_t)n;
  }
  s->owed += (uint32_t)done;
  return done;
}

static void push_waiting(struct stream *s) {
  while (s->count > 0) {
    size_t piece = s->start + s->count <= WINDOW ? s->count : WINDOW - s->start;
    size_t n = push(s, s->waiting + s->start, piece);
    s->start = (s->start + (uint32_t)n) % WINDOW;
    s->count -= (uint32_t)n;
    if (s->unheard) {
      s->owed += s->count;
      s->count = 0;
    } else if (n < piece) {
      return;
    }
  }
  if (s->waiting != NULL) drop_waiting(s);
}

static void pass_on(struct stream *s, const unsigned char *bytes, size_t count) {
  size_t n = s->count == 0 && !s->unheard ? push(s, bytes, count) : 0;
  if (s->unheard) s->owed += (uint32_t)(count - n);
  if (s->unheard || n == count) return;
  if (s->waiting == NULL && (s->waiting = malloc(WINDOW)) == NULL) {
    s->error = ENOMEM;
    s->unheard = true;
    return;
  }
  // It fits: what waits was granted, and is not granted again before it was passed on.
  while (n < count) {
    size_t end = (s->start + s->count) % WINDOW;
    size_t piece = count - n < WINDOW - end ? count - n : WINDOW - end;
    memcpy(s->waiting + end, bytes + n, piece);
    s->count += (uint32_t)piece;
    n += piece;
  }
}

static void open_stream(uint32_t id) {
  m.last_id = id;
  if (m.count == MOST_STREAMS) forget_ended();
  int fd = -1, error = 0;
  struct ucred peer;
  socklen_t bytes = sizeof peer;
  if (m.count == MOST_STREAMS) error = EAGAIN;
  else if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0) error = errno;
  else if (connect(fd, (struct sockaddr *)&m.address, sizeof m.address) != 0) error = errno;
  // Whoever may write to the directory may put a socket of his own there.
  else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 || peer.uid != geteuid()) error = EPERM;
  if (error != 0) {
    if (fd >= 0) close(fd);
    say_number(id, MUX_RESET, (uint32_t)error);
    return;
  }
  m.streams[m.count++] = (struct stream){.id = id, .fd = fd, .allowance = WINDOW, .granted = WINDOW};
  say(id, MUX_OPENED);
}

/// Reads once, when there is room for it here and at the host.
static void read_stream(struct stream *s) {
  size_t room = out_room();
  if (s->source_ended || s->allowance == 0 || room < OUT_RESERVE + FRAME_HEADER + LEAST_ROOM) return;
  size_t most = room - OUT_RESERVE - FRAME_HEADER;
  if (most > MOST_DATA) most = MOST_DATA;
  if (most > s->allowance) most = s->allowance;
  unsigned char *at = out_at(FRAME_HEADER + most);
  ssize_t n = recv(s->fd, at + FRAME_HEADER, most, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    s->source_ended = true;
    if (n < 0) s->error = errno;
    else say(s->id, MUX_EOF);
    return;
  }
  put_frame_header(at, s->id, MUX_DATA, (size_t)n);
  m.out_end += FRAME_HEADER + (size_t)n;
  s->allowance -= (uint32_t)n;
}

/// Tells the host what there is to be told.
static void settle(struct stream *s) {
  if (out_room() < CONTROL_BYTES) return;
  if (s->unheard && s->source_ended && s->error == 0) s->error = EPIPE;
  if (s->error != 0) {
    say_number(s->id, MUX_RESET, (uint32_t)s->error);
    end_stream(s);
    return;
  }
  if (s->host_ended && !s->shut && s->count == 0) {
    s->shut = true;
    shutdown(s->fd, SHUT_WR);
  }
  if (s->shut && s->source_ended) {
    end_stream(s);
    return;
  }
  if (s->owed >= GRANT_AT && !s->host_ended) {
    say_number(s->id, MUX_CREDIT, s->owed);
    s->granted += s->owed;
    s->owed = 0;
  }
}

// ---- from the host

static void take_control(uint32_t id, unsigned type, uint32_t value) {
  struct stream *s = find_stream(id);
  if (type == MUX_OPEN) {
    if (id <= m.last_id) give_up("the mux: a stream is opened twice\n");
    open_stream(id);
    return;
  }
  if (id == 0 || id > m.last_id) give_up("the mux: a frame of a stream that was never opened\n");
  if (s == NULL) return;
  if (type == MUX_EOF) {
    if (s->host_ended) give_up("the mux: two ends of a stream\n");
    s->host_ended = true;
  } else if (type == MUX_RESET) {
    end_stream(s);
  } else {
    if (value > WINDOW || s->allowance + value > WINDOW) give_up("the mux: more credit than there can be\n");
    s->allowance += value;
  }
}

static void begin_data(uint32_t id, size_t bytes) {
  struct stream *s = find_stream(id);
  if (id == 0 || id > m.last_id) give_up("the mux: data of a stream that was never opened\n");
  if (bytes == 0 || bytes > MOST_DATA) give_up("the mux: data without a byte, or with too many\n");
  if (s != NULL) {
    if (s->host_ended || bytes > s->granted) give_up("the mux: more data than was granted\n");
    s->granted -= (uint32_t)bytes;
  }
  m.data_id = id;
  m.data_left = bytes;
}

static void take_data(void) {
  size_t n = m.in_end - m.in_start;
  if (n > m.data_left) n = m.data_left;
  struct stream *s = find_stream(m.data_id);
  if (s != NULL) pass_on(s, m.in + m.in_start, n);
  m.in_start += n;
  m.data_left -= n;
}

/// Takes one frame, or a piece of data. False: more must come first, or there is no room for what it may be answered with.
static bool take_frame(void) {
  size_t have = m.in_end - m.in_start;
  if (m.data_left > 0 && have > 0) {
    take_data();
    return true;
  }
  if (have < FRAME_HEADER || out_room() < CONTROL_BYTES) return false;
  const unsigned char *at = m.in + m.in_start;
  uint32_t id = get32(at);
  unsigned type = at[4];
  size_t bytes = (size_t)at[6] | (size_t)at[7] << 8;
  if (type == MUX_DATA) {
    begin_data(id, bytes);
    m.in_start += FRAME_HEADER;
    return true;
  }
  if (type < MUX_OPEN || type > MUX_CREDIT || at[5] != 0 || bytes != (type == MUX_CREDIT ? 4 : 0))
    give_up("the mux: a frame of an unknown kind\n");
  if (have < FRAME_HEADER + bytes) return false;
  take_control(id, type, bytes > 0 ? get32(at + FRAME_HEADER) : 0);
  m.in_start += FRAME_HEADER + bytes;
  return true;
}

/// True while the next frame is here whole, and only room for an answer is missing.
static bool is_blocked(void) {
  return m.in_end - m.in_start >= CONTROL_BYTES && out_room() < CONTROL_BYTES;
}

static void read_in(void) {
  memmove(m.in, m.in + m.in_start, m.in_end - m.in_start);
  m.in_end -= m.in_start;
  m.in_start = 0;
  ssize_t n = read(STDIN_FILENO, m.in + m.in_end, sizeof m.in - m.in_end);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  // The host is done with us: our connections end with us, as when it closes a socket.
  if (n <= 0) _exit(0);
  m.in_end += (size_t)n;
}

// ---- turns

/// All has been said that there is to say.
static bool is_done(void) {
  if (m.out_start < m.out_end) return false;
  for (size_t i = 0; i < m.count; i++) {
    if (!m.streams[i].source_ended) return false;
  }
  return true;
}

static void wait_for_news(const sigset_t *mask) {
  static struct pollfd p[2 + MOST_STREAMS];
  p[0] = (struct pollfd){.fd = is_blocked() ? -1 : STDIN_FILENO, .events = POLLIN};
  p[1] = (struct pollfd){.fd = STDOUT_FILENO, .events = m.out_start < m.out_end ? POLLOUT : 0};
  bool room = out_room() >= OUT_RESERVE + FRAME_HEADER + LEAST_ROOM;
  for (size_t i = 0; i < m.count; i++) {
    struct stream *s = &m.streams[i];
    short events = 0;
    if (!s->source_ended && s->allowance > 0 && room) events |= POLLIN;
    if (s->count > 0) events |= POLLOUT;
    // With nothing to wait for, only a hang-up could be told, again and again.
    p[2 + i] = (struct pollfd){.fd = events == 0 ? -1 : s->fd, .events = events};
  }
  if (ppoll(p, 2 + m.count, NULL, mask) < 0) return;
  if ((p[1].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) _exit(0);
  if (p[0].revents != 0) read_in();
  size_t count = m.count;
  for (size_t i = 0; i < count; i++) {
    if (p[2 + i].revents != 0 && m.streams[i].count > 0) push_waiting(&m.streams[i]);
  }
  // Each gets to be the first in its turn, since there may not be room for all.
  if (count > 0) m.turn = (m.turn + 1) % count;
  for (size_t i = 0; i < count; i++) {
    size_t at = (m.turn + i) % count;
    if ((p[2 + at].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read_stream(&m.streams[at]);
  }
}

static bool arrange(const char *path, sigset_t *unblocked) {
  if (strlen(path) >= sizeof m.address.sun_path) return false;
  m.address.sun_family = AF_UNIX;
  strcpy(m.address.sun_path, path);
  close_from(STDERR_FILENO + 1);
  static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGTTIN, SIGTTOU};
  for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) signal(ignored[i], SIG_IGN);
  struct rlimit descriptors;
  if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
  }
  sigset_t mask;
  sigemptyset(unblocked);
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  struct sigaction term = {.sa_sigaction = on_term, .sa_flags = SA_SIGINFO};
  return sigaction(SIGTERM, &term, NULL) == 0 && sigprocmask(SIG_SETMASK, &mask, NULL) == 0 &&
         fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK) == 0 &&
         fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK) == 0;
}

void mux(const char *path) {
  sigset_t unblocked;
  if (!arrange(path, &unblocked)) give_up("the mux can't be started\n");
  say_number(0, MUX_READY, MUX_PROTOCOL);
  for (;;) {
    while (take_frame()) continue;
    for (size_t i = 0; i < m.count; i++) {
      if (!m.streams[i].over) settle(&m.streams[i]);
    }
    forget_ended();
    flush_out();
    if (ending && is_done()) _exit(0);
    wait_for_news(&unblocked);
  }
}
