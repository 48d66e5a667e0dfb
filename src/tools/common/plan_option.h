/* What --plan takes. */
#ifndef TOOLS_COMMON_PLAN_OPTION_H
#define TOOLS_COMMON_PLAN_OPTION_H

#include <stddef.h>

#include "tpview/status.h"

/* Read the plan that `option` names: the path of a plan file, or "hf:" and the path of transformers' own
 * base_model_tp_plan or tp_plan as JSON, of which a plan file is made. The caller frees *text. Errors of
 * tpv_small_file_read; TPV_ERR_FORMAT. */
tpv_status_t tpv_cli_read_plan(const char *option, char **text, size_t *length);

/* The path in `option`, for messages. */
const char *tpv_cli_plan_path(const char *option);

#endif
