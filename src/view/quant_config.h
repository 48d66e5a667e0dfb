/* What config.json says of quantisation, in the words of any method: packing, groups, blocks. */
#ifndef VIEW_QUANT_CONFIG_H
#define VIEW_QUANT_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define TPV_MAX_QUANT_BLOCKS 16
#define TPV_MAX_QUANT_BITS 8

typedef enum tpv_told { TPV_NOT_TOLD, TPV_TOLD_FALSE, TPV_TOLD_TRUE, TPV_TOLD_BOTH } tpv_told_t;

/* Modules may differ from one another: all that is told anywhere is listed, and the shapes of a module tell which of it
 * is its own. */
typedef struct tpv_quant_config {
    const char *method;                      /* quant_method; "" when it is not told, as are the following */
    const char *format;                      /* checkpoint_format of GPTQ */
    const char *version;                     /* of AWQ */
    uint64_t block[TPV_MAX_QUANT_BLOCKS][2]; /* rows and columns that share a scale */
    uint32_t block_count;
    uint64_t bits[TPV_MAX_QUANT_BITS]; /* of one number in packed words */
    uint32_t bits_count;
    tpv_told_t desc_act; /* of GPTQ: groups are not those of neighbours */
} tpv_quant_config_t;

/* Read config.json's facts; what cannot be understood is left out. Texts are borrowed. */
tpv_quant_config_t tpv_quant_config_read(const json_t *facts);

#endif
