/*
 * tpview: tensor-parallel views of model weights over NCCL net plugins.
 *
 * The order of a fetch:
 *
 *     tpv_source_open(NULL, NULL, &source);                                   the service of this user and host
 *     tpv_source_artifact(source, "qwen3-14b", 10.0, &artifact);              names, dtypes and shapes
 *     tpv_view_plan(artifact, &(tpv_plan_options_t){.tp_size = 4}, &view);    what rank 0 of 4 needs
 *     void *memory = malloc(tpv_view_stats(view).bytes);
 *     tpv_fetch(source, artifact, view, &(tpv_fetch_options_t){.deadline_s = 60}, memory, &result);
 *
 * status.h     status codes and messages
 * artifact.h   checkpoints and their identity
 * view.h       TP plans, explicit specs, gathering
 * fetch.h      services, fetching, verifying
 * fetch_job.h  fetches on a thread of their own
 * shared.h     views that the ranks of one host share
 * lease.h      the table of leases of this host
 */
#ifndef TPVIEW_TPVIEW_H
#define TPVIEW_TPVIEW_H

#include "tpview/artifact.h"
#include "tpview/fetch.h"
#include "tpview/fetch_job.h"
#include "tpview/lease.h"
#include "tpview/shared_view.h"
#include "tpview/status.h"
#include "tpview/view.h"

/* The library's version as "major.minor.patch". Static storage. */
TPV_API const char *tpv_version(void);

/* Grows whenever a public structure or the meaning of a public function changes. A caller that was not compiled against
 * these very headers (a binding) compares it with TPV_ABI_VERSION of those that it was written for. */
#define TPV_ABI_VERSION 4u
TPV_API uint32_t tpv_abi_version(void);

#endif
