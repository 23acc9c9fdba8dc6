/* What a process under this shim (LD_PRELOAD) believes of the wall clock, how long its fsync takes, and what memory it is refused.
 * All stand in the file that PERDURE_SHIM_FILE names, so they can be changed while it runs. Monotonic clocks are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
  volatile int64_t clock_offset_s;
  volatile int64_t fsync_delay_us;
  volatile int64_t refused_bytes; /* allocations of so many bytes and more fail; 0: none */
};

static struct control none;
static struct control *control = &none;

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void start(void) {
  real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  const char *path = getenv("PERDURE_SHIM_FILE");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) control = mapped;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real_clock_gettime(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += control->clock_offset_s;
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact)) return (time_t)-1;
  if (now) *now = exact.tv_sec;
  return exact.tv_sec;
}

int fsync(int file) {
  if (control->fsync_delay_us) usleep((useconds_t)control->fsync_delay_us);
  return real_fsync(file);
}

int fdatasync(int file) {
  if (control->fsync_delay_us) usleep((useconds_t)control->fsync_delay_us);
  return real_fdatasync(file);
}

/* Memory. The C library's own functions are called by the names that it exports for this, since dlsym itself allocates. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

static int refused(size_t size) {
  int64_t limit = control->refused_bytes;
  if (!limit || size < (size_t)limit) return 0;
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t size) { return refused(size) ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) { return refused(count * size) ? NULL : __libc_calloc(count, size); }

void *realloc(void *old, size_t size) { return refused(size) ? NULL : __libc_realloc(old, size); }

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
  static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
  if (!real_mmap) real_mmap = dlsym(RTLD_NEXT, "mmap");
  if ((flags & MAP_ANONYMOUS) && refused(size)) return MAP_FAILED;
  return real_mmap(at, size, protection, flags, file, offset);
}
