/* Fails or shortens the n-th call that writes, flushes or renames a file below FAULT_ROOT.
   Preloaded by test_write_faults.py: Rust and C++ write past Python. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SHORT = -1 };
static int armed, kind, first, stays, count;

/* From now on calls are counted; the n-th (and, if it stays, all later ones) has the fault: an
   errno, or SHORT. n = 0 only counts, n < 0 ends it. */
void fault_arm(int fault, int n, int for_good) {
  armed = n >= 0, kind = fault, first = n, stays = for_good, count = 0;
}

int fault_count(void) { return count; }

static int is_below(const char *path) {
  const char *root = getenv("FAULT_ROOT");
  return root && strncmp(path, root, strlen(root)) == 0;
}

static int is_due(const char *path) {
  if (!armed || !is_below(path)) return 0;
  count++;
  return first && (count == first || (stays && count > first));
}

static int is_due_for(int file) {
  char link[64], path[PATH_MAX] = "";
  if (!armed) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  if (readlink(link, path, sizeof path - 1) < 0) return 0;
  return is_due(path);
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))
#define FAIL \
  do { \
    errno = kind; \
    return -1; \
  } while (0)

ssize_t write(int file, const void *bytes, size_t size) {
  if (is_due_for(file)) {
    if (kind != SHORT) FAIL;
    size = (size + 1) / 2;
  }
  return REAL(ssize_t, "write", int, const void *, size_t)(file, bytes, size);
}

ssize_t writev(int file, const struct iovec *parts, int num) {
  if (is_due_for(file)) {
    if (kind != SHORT) FAIL;
    return REAL(ssize_t, "write", int, const void *, size_t)(
        file, parts->iov_base, (parts->iov_len + 1) / 2);
  }
  return REAL(ssize_t, "writev", int, const struct iovec *, int)(file, parts, num);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t place) {
  if (is_due_for(file)) {
    if (kind != SHORT) FAIL;
    size = (size + 1) / 2;
  }
  return REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(file, bytes, size, place);
}

int fsync(int file) {
  if (is_due_for(file) && kind != SHORT) FAIL;
  return REAL(int, "fsync", int)(file);
}

int rename(const char *old, const char *new) {
  if (is_due(new) && kind != SHORT && kind != EINTR) FAIL;
  return REAL(int, "rename", const char *, const char *)(old, new);
}
