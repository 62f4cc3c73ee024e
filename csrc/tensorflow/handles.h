// RAII for what the C API hands out, and its statuses as exceptions.
#pragma once

#include <memory>
#include <new>
#include <string>

#include "c_api.h"
#include "error.h"

namespace masked_rnn::tensorflow {

template <auto function>
struct Deleter {
  template <class T>
  void operator()(T* handle) const {
    function(handle);
  }
};

using Tensor = std::unique_ptr<TF_Tensor, Deleter<TF_DeleteTensor>>;
using Buffer = std::unique_ptr<TF_Buffer, Deleter<TF_DeleteBuffer>>;
using ShapeHandle = std::unique_ptr<TF_ShapeHandle, Deleter<TF_DeleteShapeHandle>>;

// What TensorFlow itself reported; passed on as it came.
struct Failure {
  TF_Code code;
  std::string message;
};

class Status {
 public:
  Status() : status_(TF_NewStatus()) {}
  TF_Status* get() const { return status_.get(); }

  // Throws where the call before failed.
  void check() const {
    if (TF_GetCode(get()) != TF_OK) throw Failure{TF_GetCode(get()), TF_Message(get())};
  }

  // Runs `body`; whatever it throws becomes this status. True if it threw nothing.
  template <class Body>
  bool run(const Body& body) {
    try {
      body();
      return true;
    } catch (const Failure& e) {
      TF_SetStatus(get(), e.code, e.message.c_str());
    } catch (const InvalidArgument& e) {
      TF_SetStatus(get(), TF_INVALID_ARGUMENT, e.what());
    } catch (const ResourceExhausted& e) {
      TF_SetStatus(get(), TF_RESOURCE_EXHAUSTED, e.what());
    } catch (const std::bad_alloc&) {
      TF_SetStatus(get(), TF_RESOURCE_EXHAUSTED, "out of memory");
    } catch (const std::exception& e) {
      TF_SetStatus(get(), TF_INTERNAL, e.what());
    }
    return false;
  }

 private:
  std::unique_ptr<TF_Status, Deleter<TF_DeleteStatus>> status_;
};

}  // namespace masked_rnn::tensorflow
