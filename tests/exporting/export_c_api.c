/* Loads a SavedModel through TensorFlow's C API and runs one signature on one image file.
 *
 *   export_c_api VERSION_DIR INPUT_OP OUTPUT_OP OUTPUT_INDEX IMAGE_FILE
 *
 * No Python: what runs here needs no custom and no Python operation. Prints the first value of the
 * output (int64), or the error code and message on stderr with exit status 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tensorflow/c/c_api.h"

static void stop_on_error(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: code %d: %s\n", what, TF_GetCode(status), TF_Message(status));
    exit(1);
  }
}

static TF_Output output_of(TF_Graph *graph, const char *name, int index) {
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (output.oper == NULL) {
    fprintf(stderr, "no operation %s\n", name);
    exit(2);
  }
  return output;
}

static void no_release(void *data, size_t length, void *argument) {}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  FILE *file = fopen(argv[5], "rb");
  if (file == NULL) return 2;
  static char bytes[1 << 20];
  size_t length = fread(bytes, 1, sizeof bytes, file);
  fclose(file);

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  stop_on_error(status, "load");

  TF_TString text;
  TF_TString_Init(&text);
  TF_TString_Copy(&text, bytes, length);
  int64_t shape[] = {1};
  TF_Tensor *input = TF_NewTensor(TF_STRING, shape, 1, &text, sizeof text, no_release, NULL);
  TF_Output feed = output_of(graph, argv[2], 0);
  TF_Output fetch = output_of(graph, argv[3], atoi(argv[4]));
  TF_Tensor *result = NULL;
  TF_SessionRun(session, NULL, &feed, &input, 1, &fetch, &result, 1, NULL, 0, NULL, status);
  stop_on_error(status, "run");
  printf("%lld\n", (long long)((int64_t *)TF_TensorData(result))[0]);
  return 0;
}
