/* Shifts the wall clock of a process by the seconds (int64) in the file that SOAK_CLOCK_FILE names, at any time.

   Preloaded. Reading the wall clock gives the shifted time; waiting until a wall clock time waits until the true one.
   The monotonic clock, files' times and other processes are not affected. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define A_WALL_CLOCK_TIME 1000000000 /* more seconds than any machine has been up */

static volatile int64_t none = 0, *shift = &none;

__attribute__((constructor)) static void map_shift(void) {
  const char *path = getenv("SOAK_CLOCK_FILE");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  if (page != MAP_FAILED) shift = page;
  close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, id, now);
  if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
  if (base != TIME_UTC) return 0;
  clock_gettime(CLOCK_REALTIME, now);
  return base;
}

static struct timespec true_time(const struct timespec *until) {
  struct timespec moved = *until;
  if (until->tv_sec > A_WALL_CLOCK_TIME) moved.tv_sec -= *shift;
  return moved;
}

/* the newest version: dlsym alone may find the one for programs of another age, which has another pthread_cond_t */
static void *original(const char *name) {
  void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
  return found ? found : dlsym(RTLD_NEXT, name);
}

#define WAITS(name, ...)                                \
  static int (*real)();                                 \
  if (!real) real = (int (*)())original(#name);         \
  struct timespec moved = true_time(until);             \
  return real(__VA_ARGS__, &moved)

int sem_timedwait(sem_t *restrict one, const struct timespec *restrict until) { WAITS(sem_timedwait, one); }

int sem_clockwait(sem_t *restrict one, clockid_t id, const struct timespec *restrict until) {
  WAITS(sem_clockwait, one, id);
}

int pthread_cond_timedwait(pthread_cond_t *restrict one, pthread_mutex_t *restrict lock,
                           const struct timespec *restrict until) {
  WAITS(pthread_cond_timedwait, one, lock);
}

int pthread_cond_clockwait(pthread_cond_t *restrict one, pthread_mutex_t *restrict lock, clockid_t id,
                           const struct timespec *restrict until) {
  WAITS(pthread_cond_clockwait, one, lock, id);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict one, const struct timespec *restrict until) {
  WAITS(pthread_mutex_timedlock, one);
}

int cnd_timedwait(cnd_t *restrict one, mtx_t *restrict lock, const struct timespec *restrict until) {
  WAITS(cnd_timedwait, one, lock);
}
