/*
 * What lies where in the shared file: a header, the arbiters of both kinds, export slots, lease slots. All of it is
 * part of the layout signature, so that processes of different builds meet only when they agree.
 */
#ifndef LIFECYCLE_LAYOUT_H
#define LIFECYCLE_LAYOUT_H

#include "lifecycle/table_word.h"

#define TPV_CACHE_LINE 64
#define TPV_TABLE_MAGIC UINT64_C(0x454c424154565054) /* "TPVTABLE" */
#define TPV_EXPORT_SLOTS 4096u
#define TPV_LEASE_SLOTS 16384u
#define TPV_COUNTER_SLOTS 64u

/* Written once, before the file has a name; but for the words at the end. The fields up to boot_id stay where they are
 * in every version. */
typedef struct tpv_table_header {
    uint64_t magic;
    uint64_t signature;
    uint64_t epoch;         /* drawn at random when the file was made: tells one table from its successor */
    uint64_t pid_namespace; /* inode numbers of /proc/self/ns/{pid,time}: pids and times mean nothing elsewhere */
    uint64_t time_namespace;
    char boot_id[40];
    uint32_t header_bytes;
    uint32_t export_slots;
    uint32_t export_bytes;
    uint32_t lease_slots;
    uint32_t lease_bytes;
    uint32_t unused;
    _Alignas(TPV_CACHE_LINE) tpv_word_t exports_used; /* slots at and above were never taken; only grows */
    tpv_word_t leases_used;
    _Alignas(TPV_CACHE_LINE) tpv_word_t counters[TPV_COUNTER_SLOTS]; /* tpv_counter_t */
} tpv_table_header_t;

/* The owner of a READY export without an owning process. A process is never 0 (base/process.h). */
#define TPV_OWNER_FILE UINT64_C(0)

/* What both kinds of slots begin with. */
typedef struct tpv_slot_head {
    tpv_word_t word;  /* words.h */
    tpv_word_t actor; /* base/process.h: who holds the slot while it is FREE, OPENING or PENDING; else 0. Set by CAS
                         from 0 or from a dead process, cleared only by its holder */
    tpv_word_t generation; /* which use of the slot this is; changed only by the holder of a FREE slot */
    tpv_word_t key_hash;
} tpv_slot_head_t;

/* Fixed while an export has one generation. Zero-padded text. */
typedef struct tpv_export_record {
    char artifact_id[40];
    char view_id[40];
    char device[48];
    char label[128];
} tpv_export_record_t;

typedef struct tpv_export_slot {
    _Alignas(TPV_CACHE_LINE) tpv_slot_head_t head;
    /* Written by the actor while PENDING, before the CAS that leaves it. */
    tpv_word_t owner; /* the process that holds the bytes: when it dies the export is void. TPV_OWNER_FILE: nobody, they
                         are in a file (file.h) */
    tpv_word_t bytes; /* memory that the export takes */
    tpv_word_t ttl_ns; /* how long it is kept after the last data movement */
    tpv_word_t cause;  /* tpv_status_t, when FAILED */
    _Alignas(TPV_CACHE_LINE) tpv_word_t created_ns;
    tpv_word_t retry_ns; /* when FAILED: not to be tried again before */
    tpv_word_t moved_ns; /* last data movement: a lease's attach, progress or end, or its holder found dead */
    tpv_word_t unused[5];
    tpv_word_t record[sizeof(tpv_export_record_t) / 8];
} tpv_export_slot_t;

/* Fixed while a lease has one generation. */
typedef struct tpv_lease_record {
    uint64_t id[2];
    uint64_t owner; /* the process of this host whose death ends the lease */
    uint64_t export_slot;
    uint64_t export_generation;
    uint64_t ttl_ms;
    uint64_t granted_deadline_ms; /* the first deadline */
    uint64_t begin_ns;
    uint64_t bytes_total;
    int32_t remote_pid;
    uint32_t tp_rank;
    uint32_t tp_size;
    uint32_t unused;
    char remote_host[72]; /* a host name has 64 bytes at most, HOST_NAME_MAX */
} tpv_lease_record_t;

typedef struct tpv_lease_slot {
    _Alignas(TPV_CACHE_LINE) tpv_slot_head_t head;
    tpv_word_t bytes_done; /* bits 48-63: low bits of the generation; below: bytes. A late writer cannot touch the next
                              lease's number */
    tpv_word_t unused[3];
    tpv_word_t record[sizeof(tpv_lease_record_t) / 8];
} tpv_lease_slot_t;

_Static_assert(sizeof(tpv_export_record_t) % 8 == 0 && sizeof(tpv_lease_record_t) % 8 == 0, "records are words");
_Static_assert(sizeof(tpv_export_slot_t) % TPV_CACHE_LINE == 0, "slots are padded to cache lines");

#endif
