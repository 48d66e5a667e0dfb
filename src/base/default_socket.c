#include "base/default_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

#define NAME "tpviewd.sock"

static tpv_status_t check(const char *folder, const struct stat *info) {
    const char *remedy = "set XDG_RUNTIME_DIR to a folder of your own, or name a socket elsewhere";
    if (!S_ISDIR(info->st_mode)) return tpv_error_set(TPV_ERR_PERMISSION, "%s is not a folder: %s", folder, remedy);
    if (info->st_uid != geteuid())
        return tpv_error_set(TPV_ERR_PERMISSION, "%s belongs to user %u, expected %u: %s", folder,
                             (unsigned)info->st_uid, (unsigned)geteuid(), remedy);
    if (info->st_mode & (S_IWGRP | S_IWOTH))
        return tpv_error_set(TPV_ERR_PERMISSION, "%s has mode %04o, so others may write to it: chmod 700 %s", folder,
                             (unsigned)info->st_mode & 07777, folder);
    return TPV_OK;
}

tpv_status_t tpv_default_socket(bool make, char path[TPV_SOCKET_PATH_MAX]) {
    const char *given = getenv("XDG_RUNTIME_DIR");
    bool in_tmp = !given || !*given;
    char folder[TPV_SOCKET_PATH_MAX - sizeof NAME];
    int length = in_tmp ? snprintf(folder, sizeof folder, "/tmp/tpview-%u", (unsigned)geteuid())
                        : snprintf(folder, sizeof folder, "%s", given);
    if (length >= (int)sizeof folder)
        return tpv_error_set(TPV_ERR_ARGUMENT, "XDG_RUNTIME_DIR has %d bytes: expected at most %zu", length,
                             sizeof folder - 1);
    snprintf(path, TPV_SOCKET_PATH_MAX, "%s/" NAME, folder);
    if (in_tmp && make && mkdir(folder, 0700) != 0 && errno != EEXIST)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "making %s", folder);
    struct stat info;
    /* In /tmp a link may be anybody's; the other one was named by the user. */
    if (fstatat(AT_FDCWD, folder, &info, in_tmp ? AT_SYMLINK_NOFOLLOW : 0) == 0) return check(folder, &info);
    if (errno == ENOENT && !make) return TPV_OK;
    return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%s%s", in_tmp ? "" : "XDG_RUNTIME_DIR ", folder);
}
