// What types of C++ are as values, and back. A type of your own gets a specialisation of Convert.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/program/value.h"

namespace beeline::program {

// Convert<T>::to(T) gives the value; Convert<T>::from(value) the T, or kInvalidArgument saying what came instead.
template <typename T, typename = void>
struct Convert;

inline Status mismatch(const char* wanted, const Value& value) {
  return {Code::kInvalidArgument, std::string("expected ") + wanted + ", got " + value.kind()};
}

template <>
struct Convert<Value> {
  static Value to(Value value) { return value; }
  static Result<Value> from(const Value& value) { return value; }
};

// The result of a function that returns nothing: None.
template <>
struct Convert<std::monostate> {
  static Value to(std::monostate) { return {}; }
  static Result<std::monostate> from(const Value&) { return std::monostate{}; }
};

template <>
struct Convert<bool> {
  static Value to(bool value) { return Value(value); }
  static Result<bool> from(const Value& value) {
    if (const auto* found = value.as<bool>()) return *found;
    return mismatch("a bool", value);
  }
};

template <typename T>
struct Convert<T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>>> {
  static Value to(T value) { return Value(static_cast<std::int64_t>(value)); }
  static Result<T> from(const Value& value) {
    const auto* found = value.as<std::int64_t>();
    if (found == nullptr) return mismatch("an integer", value);
    if (!std::in_range<T>(*found)) {
      return Status(Code::kInvalidArgument, std::to_string(*found) + " does not fit into an integer of " +
                                                std::to_string(sizeof(T) * 8) + " bits");
    }
    return static_cast<T>(*found);
  }
};

template <typename T>
struct Convert<T, std::enable_if_t<std::is_floating_point_v<T>>> {
  static Value to(T value) { return Value(static_cast<double>(value)); }
  static Result<T> from(const Value& value) {
    if (const auto* found = value.as<double>()) return static_cast<T>(*found);
    if (const auto* found = value.as<std::int64_t>()) return static_cast<T>(*found);
    return mismatch("a float", value);
  }
};

template <>
struct Convert<std::string> {
  static Value to(std::string value) { return Value(std::move(value)); }
  static Result<std::string> from(const Value& value) {
    if (const auto* found = value.as<std::string>()) return *found;
    return mismatch("a string", value);
  }
};
template <>
struct Convert<std::string_view> {
  static Value to(std::string_view value) { return Value(std::string(value)); }
};
template <>
struct Convert<const char*> {
  static Value to(const char* value) { return Value(std::string(value)); }
};

template <>
struct Convert<Blob> {
  static Value to(Blob value) { return Value(std::move(value)); }
  static Result<Blob> from(const Value& value) {
    if (const auto* found = value.as<Blob>()) return *found;
    return mismatch("bytes", value);
  }
};

template <>
struct Convert<api::Tensor> {
  static Value to(api::Tensor value) { return Value(std::move(value)); }
  static Result<api::Tensor> from(const Value& value) {
    if (const auto* found = value.as<api::Tensor>()) return *found;
    return mismatch("a tensor", value);
  }
};

template <typename T>
struct Convert<std::optional<T>> {
  static Value to(std::optional<T> value) { return value ? Convert<T>::to(std::move(*value)) : Value(); }
  static Result<std::optional<T>> from(const Value& value) {
    if (value.is_none()) return std::optional<T>();
    BEELINE_ASSIGN(auto found, Convert<T>::from(value));
    return std::optional<T>(std::move(found));
  }
};

// The items of a list or tuple; null for anything else.
inline const std::vector<Value>* items_of(const Value& value) {
  if (const auto* list = value.as<List>()) return list;
  const auto* tuple = value.as<Tuple>();
  return tuple == nullptr ? nullptr : &tuple->items;
}

template <typename T>
struct Convert<std::vector<T>> {
  static Value to(const std::vector<T>& values) {
    List list;
    list.reserve(values.size());
    for (const auto& value : values) list.push_back(Convert<T>::to(value));
    return Value(std::move(list));
  }
  static Result<std::vector<T>> from(const Value& value) {
    const auto* items = items_of(value);
    if (items == nullptr) return mismatch("a list", value);
    std::vector<T> values;
    values.reserve(items->size());
    for (const auto& item : *items) {
      BEELINE_ASSIGN(auto found, Convert<T>::from(item));
      values.push_back(std::move(found));
    }
    return values;
  }
};

template <typename T>
struct Convert<std::map<std::string, T>> {
  static Value to(const std::map<std::string, T>& values) {
    Dict dict;
    for (const auto& [key, value] : values) dict.emplace_back(Value(key), Convert<T>::to(value));
    return Value(std::move(dict));
  }
  static Result<std::map<std::string, T>> from(const Value& value) {
    const auto* dict = value.as<Dict>();
    if (dict == nullptr) return mismatch("a dict", value);
    std::map<std::string, T> values;
    for (const auto& [key, item] : *dict) {
      BEELINE_ASSIGN(auto name, Convert<std::string>::from(key));
      BEELINE_ASSIGN(auto found, Convert<T>::from(item));
      values.emplace(std::move(name), std::move(found));
    }
    return values;
  }
};

template <typename... T>
struct Convert<std::tuple<T...>> {
  static Value to(const std::tuple<T...>& values) {
    Tuple tuple;
    std::apply([&](const auto&... value) { (tuple.items.push_back(Convert<T>::to(value)), ...); }, values);
    return Value(std::move(tuple));
  }
  static Result<std::tuple<T...>> from(const Value& value) {
    const auto* items = items_of(value);
    if (items == nullptr) return mismatch("a tuple", value);
    if (items->size() != sizeof...(T)) {
      return Status(Code::kInvalidArgument,
                    "expected " + std::to_string(sizeof...(T)) + " items, got " + std::to_string(items->size()));
    }
    return from_items(*items, std::index_sequence_for<T...>());
  }

 private:
  template <std::size_t... I>
  static Result<std::tuple<T...>> from_items(const std::vector<Value>& items, std::index_sequence<I...>) {
    std::tuple<Result<T>...> found(Convert<T>::from(items[I])...);
    Status status;
    (void)((std::get<I>(found) || (status = std::get<I>(found).status(), false)) && ...);
    if (!status) return status;
    return std::tuple<T...>(std::move(*std::get<I>(found))...);
  }
};

}  // namespace beeline::program
