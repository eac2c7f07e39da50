/* The process ends before, or in the middle of, the n-th event below a folder: opening to write, writing, renaming,
   linking, removing, making folders, synchronising, cutting. Loaded before all other libraries, so that it meets
   those of C++ too. `crash_begin` says where and when; what happens goes, a line an event, to an open file. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static size_t length;
static atomic_long seen;
static long last = -1;
static int halves, told = -1;

void crash_begin(const char *folder, long at, int half, int file) {
  length = (size_t)snprintf(below, sizeof below, "%s", folder);
  last = at, halves = half, told = file, seen = 0;
}

static const char *full(int at, const char *path, char *room) {
  char link[64];
  if (path[0] == '/') return path;
  if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
  else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
  ssize_t size = readlink(link, room, PATH_MAX - 1);
  if (size < 0) return "";
  if (path[0]) snprintf(room + size, (size_t)(PATH_MAX - size), "/%s", path);
  else room[size] = 0;
  return room;
}

/* Whether a write is to be done by half; the end of the process where it is its turn. */
static int event(const char *what, int at, const char *path) {
  char room[2 * PATH_MAX], line[2 * PATH_MAX];
  if (!length) return 0;
  path = full(at, path, room);
  if (strncmp(path, below, length) || (path[length] && path[length] != '/')) return 0;
  long now = atomic_fetch_add(&seen, 1);
  int size = snprintf(line, sizeof line, "%s %s\n", what, path[length] ? path + length + 1 : ".");
  if (told >= 0) syscall(SYS_write, told, line, size);
  if (last < 0 || now < last) return 0;
  if (halves && now == last && !strcmp(what, "write")) return 1;
  _exit(137);
}

static void half(int file, const void *data, size_t size, off_t place) {
  if (place < 0) syscall(SYS_write, file, data, size / 2);
  else syscall(SYS_pwrite64, file, data, size / 2, place);
  _exit(137);
}

ssize_t write(int file, const void *data, size_t size) {
  if (event("write", file, "")) half(file, data, size, -1);
  return syscall(SYS_write, file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
  if (event("write", file, "")) half(file, data, size, place);
  return syscall(SYS_pwrite64, file, data, size, place);
}
ssize_t pwrite64(int file, const void *data, size_t size, off_t place) { return pwrite(file, data, size, place); }
ssize_t writev(int file, const struct iovec *parts, int count) {
  if (event("write", file, "") && count) half(file, parts[0].iov_base, parts[0].iov_len, -1);
  return syscall(SYS_writev, file, parts, count);
}

static int opened(int at, const char *path, int flags, mode_t mode) {
  if (flags & (O_CREAT | O_TRUNC)) event("open", at, path);
  return (int)syscall(SYS_openat, at, path, flags, mode);
}
#define MODE                                       \
  mode_t mode = 0;                                 \
  if (flags & (O_CREAT | O_TMPFILE)) {             \
    va_list rest;                                  \
    va_start(rest, flags);                         \
    mode = (mode_t)va_arg(rest, int);              \
    va_end(rest);                                  \
  }
int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE return opened(at, path, flags, mode); }

/* Of a name that is changed either side may be in the folder: one event. */
static void named(const char *what, int at1, const char *one, int at2, const char *two) {
  long before = seen;
  event(what, at2, two);
  if (seen == before) event(what, at1, one);
}
int renameat2(int at1, const char *one, int at2, const char *two, unsigned flags) {
  named("rename", at1, one, at2, two);
  return (int)syscall(SYS_renameat2, at1, one, at2, two, flags);
}
int renameat(int at1, const char *one, int at2, const char *two) { return renameat2(at1, one, at2, two, 0); }
int rename(const char *one, const char *two) { return renameat2(AT_FDCWD, one, AT_FDCWD, two, 0); }
int linkat(int at1, const char *one, int at2, const char *two, int flags) {
  named("link", at1, one, at2, two);
  return (int)syscall(SYS_linkat, at1, one, at2, two, flags);
}
int link(const char *one, const char *two) { return linkat(AT_FDCWD, one, AT_FDCWD, two, 0); }
int unlinkat(int at, const char *path, int flags) {
  event("remove", at, path);
  return (int)syscall(SYS_unlinkat, at, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int at, const char *path, mode_t mode) {
  event("mkdir", at, path);
  return (int)syscall(SYS_mkdirat, at, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int fsync(int file) {
  event("fsync", file, "");
  return (int)syscall(SYS_fsync, file);
}
int fdatasync(int file) {
  event("fsync", file, "");
  return (int)syscall(SYS_fdatasync, file);
}
int ftruncate(int file, off_t size) {
  event("cut", file, "");
  return (int)syscall(SYS_ftruncate, file, size);
}
int ftruncate64(int file, off_t size) { return ftruncate(file, size); }
