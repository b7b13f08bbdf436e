// A doubly linked list through its items: what is in one list at a time need not be on the heap a second time.
#pragma once

#include <cstddef>
#include <utility>

namespace beeline {

// What T derives from. A copy is in no list.
template <typename T>
class LinkedItem {
 public:
  LinkedItem() = default;
  LinkedItem(const LinkedItem&) : LinkedItem() {}
  LinkedItem& operator=(const LinkedItem&) { return *this; }

 private:
  template <typename>
  friend class LinkedList;
  T* previous_ = nullptr;
  T* next_ = nullptr;
};

// Does not own its items. None may be in two lists, or be destroyed while it is in one.
template <typename T>
class LinkedList {
 public:
  class Iterator {
   public:
    using value_type = T*;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(T* at = nullptr) : at_(at) {}
    T* operator*() const { return at_; }
    Iterator& operator++() {
      at_ = next(at_);
      return *this;
    }
    Iterator operator++(int) { return Iterator(std::exchange(at_, next(at_))); }
    bool operator==(const Iterator&) const = default;

   private:
    T* at_;
  };

  LinkedList() = default;
  LinkedList(LinkedList&& other) noexcept { *this = std::move(other); }
  LinkedList& operator=(LinkedList&& other) noexcept {
    first_ = std::exchange(other.first_, nullptr);
    last_ = std::exchange(other.last_, nullptr);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] Iterator begin() const { return Iterator(first_); }
  [[nodiscard]] Iterator end() const { return Iterator(); }

  void push_back(T& item) {
    links(item).previous_ = last_;
    links(item).next_ = nullptr;
    (last_ == nullptr ? first_ : links(*last_).next_) = &item;
    last_ = &item;
    ++size_;
  }
  // Null where there is none.
  T* pop_front() {
    T* const item = first_;
    if (item != nullptr) erase(*item);
    return item;
  }
  // Of an item of this list.
  void erase(T& item) {
    const auto& at = links(item);
    (at.previous_ == nullptr ? first_ : links(*at.previous_).next_) = at.next_;
    (at.next_ == nullptr ? last_ : links(*at.next_).previous_) = at.previous_;
    --size_;
  }
  void clear() { *this = LinkedList(); }

 private:
  static LinkedItem<T>& links(T& item) { return item; }
  static T* next(T* item) { return links(*item).next_; }

  T* first_ = nullptr;
  T* last_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace beeline
