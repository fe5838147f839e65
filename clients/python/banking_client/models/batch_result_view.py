from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.batch_result_view_problem_type_0 import BatchResultViewProblemType0
    from ..models.transaction_view import TransactionView


T = TypeVar("T", bound="BatchResultView")


@_attrs_define
class BatchResultView:
    """Result of one transfer of a batch: a transaction (201) or a problem.

    Attributes:
        key (str):
        status (int):
        replayed (bool):
        transaction (None | TransactionView | Unset):
        problem (BatchResultViewProblemType0 | None | Unset):
    """

    key: str
    status: int
    replayed: bool
    transaction: None | TransactionView | Unset = UNSET
    problem: BatchResultViewProblemType0 | None | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        from ..models.batch_result_view_problem_type_0 import BatchResultViewProblemType0  # noqa: PLC0415
        from ..models.transaction_view import TransactionView  # noqa: PLC0415

        key = self.key

        status = self.status

        replayed = self.replayed

        transaction: dict[str, Any] | None | Unset
        if isinstance(self.transaction, Unset):
            transaction = UNSET
        elif isinstance(self.transaction, TransactionView):
            transaction = self.transaction.to_dict()
        else:
            transaction = self.transaction

        problem: dict[str, Any] | None | Unset
        if isinstance(self.problem, Unset):
            problem = UNSET
        elif isinstance(self.problem, BatchResultViewProblemType0):
            problem = self.problem.to_dict()
        else:
            problem = self.problem

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "key": key,
                "status": status,
                "replayed": replayed,
            }
        )
        if transaction is not UNSET:
            field_dict["transaction"] = transaction
        if problem is not UNSET:
            field_dict["problem"] = problem

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.batch_result_view_problem_type_0 import BatchResultViewProblemType0  # noqa: PLC0415
        from ..models.transaction_view import TransactionView  # noqa: PLC0415

        d = dict(src_dict)
        key = d.pop("key")

        status = d.pop("status")

        replayed = d.pop("replayed")

        def _parse_transaction(data: object) -> None | TransactionView | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                transaction_type_0 = TransactionView.from_dict(data)

                return transaction_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | TransactionView | Unset, data)

        transaction = _parse_transaction(d.pop("transaction", UNSET))

        def _parse_problem(data: object) -> BatchResultViewProblemType0 | None | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                problem_type_0 = BatchResultViewProblemType0.from_dict(data)

                return problem_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(BatchResultViewProblemType0 | None | Unset, data)

        problem = _parse_problem(d.pop("problem", UNSET))

        batch_result_view = cls(
            key=key,
            status=status,
            replayed=replayed,
            transaction=transaction,
            problem=problem,
        )

        return batch_result_view
