/*
 * Exports whose bytes are in a file beside the table and that have no owning process: views that the ranks of one host
 * share. The bytes outlive whoever fetched them, until the export's time to live is over and no lease is left.
 *
 * The file's name is the table's, then its epoch, the export's slot and its generation: a name is used once, so what is
 * left of another boot, another table or another use of the slot is never mistaken for the export's. A file gets its
 * name when it is whole, right before its export is published, and loses it before the slot is freed:
 *
 *   PENDING                  no name, or one that the preparing process has just given and that goes with its death
 *   READY, DRAINING, CLOSED  the name
 *   FREE, FAILED             no name
 *
 * So whoever frees the slot can remove the file, and as often as it likes: nobody else will ever have that name. Who
 * has the file mapped keeps its pages.
 */
#ifndef LIFECYCLE_FILE_H
#define LIFECYCLE_FILE_H

#include "lifecycle/check.h"
#include "lifecycle/export.h"

#define TPV_SHARED_FOLDER "/dev/shm"
#define TPV_EXPORT_PATH_MAX 192

void tpv_export_file_path(const tpv_table_t *table, tpv_export_t export, char path[TPV_EXPORT_PATH_MAX]);

/* A new empty file without a name, mode 0600, open for reading and writing: it goes with its last descriptor. The
 * caller closes *fd. TPV_ERR_SYSTEM. */
tpv_status_t tpv_export_file_create(int *fd);

/* Give the whole file `fd` of `bytes` bytes the export's name and publish the export. Errors as tpv_export_publish, and
 * TPV_ERR_SYSTEM; on an error the file has no name. */
tpv_status_t tpv_export_file_publish(const tpv_table_t *table, tpv_export_t export, int fd, uint64_t bytes,
                                     int64_t ttl_ns);

/* Open the file of an export on which the caller has a lease, for reading. It must be this user's alone and have
 * `bytes` bytes: TPV_ERR_NOT_FOUND, TPV_ERR_PERMISSION, TPV_ERR_FORMAT; TPV_ERR_SYSTEM. The caller closes *fd. */
tpv_status_t tpv_export_file_open(const tpv_table_t *table, tpv_export_t export, uint64_t bytes, int *fd);

/* Take the file's name away. True when there is none afterwards. */
bool tpv_export_file_erase(const tpv_table_t *table, uint32_t slot, uint64_t generation);

/*
 * Withdraw exports in files that have no lease, the longest idle first, until `bytes` bytes are free in shared memory.
 * None at all when that would not suffice: then it is false.
 */
bool tpv_export_files_make_room(const tpv_table_t *table, uint64_t bytes);

/*
 * Look for files of this table's name whose export is gone (of an earlier boot, of a table that was removed) and for
 * READY exports whose file somebody removed. Adds to *findings and tells each to `tell` (NULL: nobody). With `repair`
 * the files are removed and the exports withdrawn. TPV_ERR_SYSTEM when the folder cannot be read.
 */
tpv_status_t tpv_export_files_check(const tpv_table_t *table, bool repair, tpv_finding_t tell, void *user,
                                    uint32_t *findings);

#endif
