#include "base/descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <sys/resource.h>

uint64_t tpv_descriptors_left(uint64_t *limit) {
    struct rlimit bounds;
    if (getrlimit(RLIMIT_NOFILE, &bounds) != 0) return *limit = UINT64_MAX;
    *limit = bounds.rlim_cur;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder) return errno == EMFILE || errno == ENFILE ? 0 : UINT64_MAX;
    uint64_t open = 0; /* "." and ".." are no descriptors, and the folder's own goes */
    /* cppcheck-suppress readdirCalled ; one stream for each call, so it is thread-safe (readdir(3)) */
    while (readdir(folder))
        open++;
    closedir(folder);
    return open < bounds.rlim_cur + 3 ? bounds.rlim_cur + 3 - open : 0;
}
