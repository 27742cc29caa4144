/* A disk that fails, is slow, or ends the process at a call that was chosen beforehand, and a clock that goes wrong.
   Preloaded, it looks at the calls of every library of the process. Only files below one folder are touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITES = 1, READS = 2 };
enum { FAIL = 1, SIGNAL = 2, DELAY = 3 };

static char folder[4096];
static int kinds, action, value, sticky, fired;
static long countdown;
static long clock_shift;

void disk_fault(const char *below, int which, int what, int with, long at, int always) {
  strncpy(folder, below, sizeof folder - 1);
  kinds = which, action = what, value = with, countdown = at, sticky = always, fired = 0;
}
void disk_clock(long seconds) { clock_shift = seconds; }
int disk_fired(void) { return fired; }

static int is_below(const char *path) {
  size_t n = strlen(folder);
  return n && path && !strncmp(path, folder, n);
}
static int fd_below(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return is_below(path);
}
/* Whether this call is to fail; errno is set then. */
static int struck(int kind) {
  if (!(kinds & kind)) return 0;
  long left = __atomic_sub_fetch(&countdown, 1, __ATOMIC_SEQ_CST);
  if (left > 0 || (left < 0 && !sticky)) return 0;
  fired = 1;
  if (action == SIGNAL) { kill(getpid(), value); return 0; }
  if (action == DELAY) { usleep(value); return 0; }
  errno = value;
  return 1;
}
#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define ON_FD(kind, type, name, params, args) \
  type name params { REAL(name); if (kinds && fd_below(fd) && struck(kind)) return -1; return real args; }
#define ON_PATH(type, name, params, args) \
  type name params { REAL(name); if (kinds && is_below(path) && struck(WRITES)) return -1; return real args; }

ON_FD(WRITES, ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n))
ON_FD(WRITES, ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
ON_FD(WRITES, ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
ON_FD(WRITES, ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
ON_FD(WRITES, int, fsync, (int fd), (fd))
ON_FD(WRITES, int, fdatasync, (int fd), (fd))
ON_FD(WRITES, int, ftruncate64, (int fd, off64_t n), (fd, n))
ON_FD(READS, ssize_t, read, (int fd, void *b, size_t n), (fd, b, n))
ON_FD(READS, ssize_t, pread64, (int fd, void *b, size_t n, off64_t o), (fd, b, n, o))
ON_PATH(int, rename, (const char *old, const char *path), (old, path))
ON_PATH(int, link, (const char *old, const char *path), (old, path))
ON_PATH(int, mkdir, (const char *path, mode_t m), (path, m))
ON_PATH(int, unlink, (const char *path), (path))
int linkat(int a, const char *old, int b, const char *path, int f) {
  REAL(linkat);
  if (kinds && is_below(path) && struck(WRITES)) return -1;
  return real(a, old, b, path, f);
}
int renameat(int a, const char *old, int b, const char *path) {
  REAL(renameat);
  if (kinds && is_below(path) && struck(WRITES)) return -1;
  return real(a, old, b, path);
}
#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    int kind = flags & (O_CREAT | O_WRONLY | O_RDWR) ? WRITES : READS; \
    if (kinds && is_below(path) && struck(kind)) return -1; \
    return real(path, flags, mode); }
OPEN(open)
OPEN(open64)
int clock_gettime(clockid_t which, struct timespec *now) {
  REAL(clock_gettime);
  int result = real(which, now);
  if (which == CLOCK_REALTIME) now->tv_sec += clock_shift;
  return result;
}
