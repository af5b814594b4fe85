/* Faults below Python, for LD_PRELOAD; see faulty_libc.py. Each is told by a file, so that it can come at any time.

   CLOCK_STEP=FILE: the wall clock is off by as many seconds as FILE says.
   DIE_AT_RENAME=FILE: the process is killed (SIGKILL) as it begins to rename a file to a path that ends as FILE says. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* What the file that `variable` names says; nothing where there is none. */
static void told(const char *variable, char *text, size_t size)
{
    const char *path = getenv(variable);
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, text, size - 1);
    text[length < 0 ? 0 : length] = '\0';
    if (file >= 0)
        close(file);
}

static long step(void)
{
    char text[32];
    told("CLOCK_STEP", text, sizeof text);
    return strtol(text, NULL, 10);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += step();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec fine;
    int result = clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now)
{
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (now != NULL)
        *now = fine.tv_sec;
    return fine.tv_sec;
}

int rename(const char *from, const char *to)
{
    static int (*real)(const char *, const char *);
    char text[64];
    told("DIE_AT_RENAME", text, sizeof text);
    size_t length = strlen(text);
    if (length > 0 && strlen(to) >= length && strcmp(to + strlen(to) - length, text) == 0)
        kill(getpid(), SIGKILL);
    if (real == NULL)
        real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    return real(from, to);
}
