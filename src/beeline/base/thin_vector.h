// A vector for a member that is empty in most objects of many: it takes one pointer there, a std::vector three. The
// items lie on the heap behind their count.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <new>
#include <ranges>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace beeline {

template <typename T>
class ThinVector {
 public:
  using value_type = T;
  using iterator = T*;
  using const_iterator = const T*;

  ThinVector() = default;
  template <std::forward_iterator It>
  ThinVector(It first, It last) : ThinVector() {
    assign(first, last);
  }
  ThinVector(std::initializer_list<T> items) : ThinVector(items.begin(), items.end()) {}
  ThinVector(const ThinVector& other) : ThinVector(other.begin(), other.end()) {}
  ThinVector(ThinVector&& other) noexcept : items_(std::exchange(other.items_, nullptr)) {}
  ThinVector& operator=(ThinVector other) noexcept {
    std::swap(items_, other.items_);
    return *this;
  }
  ~ThinVector() { release(); }

  [[nodiscard]] std::size_t size() const { return items_ == nullptr ? 0 : counts().size; }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] iterator begin() { return items_; }
  [[nodiscard]] iterator end() { return items_ + size(); }
  [[nodiscard]] const_iterator begin() const { return items_; }
  [[nodiscard]] const_iterator end() const { return items_ + size(); }
  [[nodiscard]] auto rbegin() { return std::reverse_iterator(end()); }
  [[nodiscard]] auto rend() { return std::reverse_iterator(begin()); }
  [[nodiscard]] T& operator[](std::size_t index) { return items_[index]; }
  [[nodiscard]] const T& operator[](std::size_t index) const { return items_[index]; }
  // Throws std::out_of_range.
  [[nodiscard]] const T& at(std::size_t index) const {
    if (index >= size()) throw std::out_of_range("an index beyond the end of a vector");
    return items_[index];
  }
  [[nodiscard]] T& front() { return items_[0]; }
  [[nodiscard]] const T& front() const { return items_[0]; }
  [[nodiscard]] T& back() { return items_[size() - 1]; }
  [[nodiscard]] const T& back() const { return items_[size() - 1]; }

  template <std::forward_iterator It>
  void assign(It first, It last) {
    clear();
    reserve(static_cast<std::size_t>(std::distance(first, last)));
    for (; first != last; ++first) push_back(*first);
  }
  template <typename... Args>
  T& emplace_back(Args&&... args) {
    T made{std::forward<Args>(args)...};  // of an item of this vector, perhaps
    reserve(size() + 1);
    T* const at = new (end()) T(std::move(made));
    ++counts().size;
    return *at;
  }
  void push_back(const T& item) { emplace_back(item); }
  void push_back(T&& item) { emplace_back(std::move(item)); }
  iterator insert(const_iterator before, T item) {
    const auto index = before - begin();
    push_back(std::move(item));
    std::rotate(begin() + index, end() - 1, end());
    return begin() + index;
  }
  iterator erase(const_iterator first, const_iterator last) {
    T* const to = begin() + (first - begin());
    if (first == last) return to;  // nothing moves onto itself
    T* const left = std::move(begin() + (last - begin()), end(), to);
    std::destroy(left, end());
    counts().size = static_cast<std::uint32_t>(left - begin());
    return to;
  }
  iterator erase(const_iterator at) { return erase(at, at + 1); }
  // Gives the memory back as well.
  void clear() {
    release();
    items_ = nullptr;
  }
  void reserve(std::size_t count) {
    if (count > capacity()) grow_to(std::max(count, capacity() * 2));
  }

  template <std::ranges::forward_range Other>
  friend bool operator==(const ThinVector& a, const Other& b) {
    return std::ranges::equal(a, b);
  }
  template <typename Predicate>
  friend std::size_t erase_if(ThinVector& vector, Predicate&& matches) {
    const auto before = vector.size();
    vector.erase(std::remove_if(vector.begin(), vector.end(), std::forward<Predicate>(matches)), vector.end());
    return before - vector.size();
  }
  // As std::erase and std::erase_if of a std::vector.
  friend std::size_t erase(ThinVector& vector, T item) {
    return erase_if(vector, [&](const T& other) { return other == item; });
  }

 private:
  struct Counts {
    std::uint32_t size = 0;
    std::uint32_t capacity = 0;
  };
  static constexpr std::size_t kBefore = std::max(sizeof(Counts), alignof(T));
  static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__ && std::is_nothrow_move_constructible_v<T>);

  [[nodiscard]] std::size_t capacity() const { return items_ == nullptr ? 0 : counts().capacity; }
  [[nodiscard]] std::byte* block() const { return reinterpret_cast<std::byte*>(items_) - kBefore; }
  [[nodiscard]] Counts& counts() const { return *std::launder(reinterpret_cast<Counts*>(block())); }

  void grow_to(std::size_t capacity) {
    auto* const block = static_cast<std::byte*>(::operator new(kBefore + capacity * sizeof(T)));
    const auto count = size();
    new (block) Counts{static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(capacity)};
    T* const items = reinterpret_cast<T*>(block + kBefore);
    std::uninitialized_move(begin(), end(), items);
    release();
    items_ = items;
  }
  void release() {
    if (items_ == nullptr) return;
    std::destroy(begin(), end());
    ::operator delete(block());
  }

  T* items_ = nullptr;
};

}  // namespace beeline
